"""PCPG: teach a sequence model by its error rate, each step by the rewards of a window around it.

Reach for it where texts are decoded from sequences (speech, lips, scans) and judged by edit distance: cross-entropy
sees only true beginnings, never the model's own mistakes. Rollouts are drawn from the model, a token's reward is how
much it brings the edit distance down, and a window of ones slides over rewards and log-probabilities alike:

    minimise (1 − λ)·CE + λ·L,   L = −(1/Z) Σ_i (Σ_{t∈W_i} r_t)·(Σ_{t∈W_i} log π(y_t)),   r_t = D_{t−1} − D_t

Windows of one step are REINFORCE by every token's own reward, one window over all is that by the return; kernel=1000
with stride=1, padding=0 is the latter. A model that has not learned yet finds no rewards: λ is 0 for `warm` epochs.

    run = sf.train("pcpg", data="visemes")              # or data=(X, words), X [n, frames, features]
    run.agent().predict(X)

Mingshuang Luo, Shuang Yang, Shiguang Shan, Xilin Chen, *Pseudo-Convolutional Policy Gradient for Sequence-to-Sequence
Lip-Reading* (FG 2020), arXiv:2003.03983.

A reconstruction: of the paper only the abstract could be read, so that the formula of the windows, the reward, λ, k, s
and p are our reading. Departures: features of frames are given, in place of the convolutions of a video; the encoder
is one GRU; the rewards have an optional baseline, the mean of the rollouts at the same step or the greedy text's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from surefoot.data.tables import Table
from surefoot.errors import UsageError
from surefoot.hyperparameters import Choices, Range, hyperparameter
from surefoot.loops.networks.nets import Batch, Net, Weights
from surefoot.loops.supervised.method import MODEL, Beforehand, Rows, Supervised
from surefoot.models.device import computing_on
from surefoot.models.seq2seq import SequenceModel, SequenceNetwork, alphabet_of, counted, encoded_texts
from surefoot.objectives.edits import increments
from surefoot.objectives.windows import Windows

if TYPE_CHECKING:
    from surefoot.loops.supervised.learner import SupervisedLearner

SPARE = 2  # symbols that a text may be longer than the longest one learned from, before its end


@dataclass(frozen=True)
class PCPG(Supervised, SequenceNetwork, Windows):
    """Cross-entropy and edit-distance rewards in sliding windows, for sequence models that teacher forcing misleads."""

    mix: float = hyperparameter(0.5, low=0, high=1, help="λ: share of the policy gradient.", tune=Range(0.1, 1.0))
    rollouts: int = hyperparameter(1, low=1, help="Texts that are drawn for every row.")
    baseline: str = hyperparameter(
        "greedy",
        choices=("none", "mean", "greedy"),
        help="Taken off rewards: that of the rollouts' mean, or greedy text.",
    )
    warm: int = hyperparameter(15, low=0, help="Epochs of cross-entropy alone.")
    batch_size: int = hyperparameter(64, low=1, help="Rows per gradient step.", tune=Choices((32, 64, 128)))
    learning_rate: float = hyperparameter(3e-3, above=0, help="Adam's step size.", tune=Range(1e-4, 1e-2, log=True))
    momentum: float | None = hyperparameter(None, low=0, below=1, help="Momentum of descent in place of Adam.")
    max_grad_norm: float | None = hyperparameter(5.0, above=0, help="Maximum gradient norm.")
    scale: str = hyperparameter("none", choices=("none",), help="Frames are taken as they are: zeros are none.")

    default_steps: ClassVar[int] = 25
    any_table: ClassVar[bool] = False
    without_effect: ClassVar[tuple[str, ...]] = ("loss", "hidden", "activation", "channels", "scale")
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "steps": {"kernel": 1, "stride": 1, "padding": 0},
        "sequence": {"kernel": 1000, "stride": 1, "padding": 0},
        "cross-entropy": {"mix": 0.0},
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_windows()
        if self.baseline == "mean" and self.rollouts < 2:
            raise UsageError(f"rollouts={self.rollouts} is not allowed with baseline='mean', which needs 2 or more.")

    # --- texts -------------------------------------------------------------------------------------------------------

    def classes_of(self, table: Table) -> np.ndarray:
        """The texts to learn."""
        if table.y.dtype.kind != "U" or len(table.shape) != 3:
            raise UsageError(
                f"{table.name} is not allowed: PCPG learns texts of sequences. Give data=visemes, or (X, words) with X "
                "[n, frames, features], zeros after the last frame, and a text for every row."
            )
        return np.unique(table.y)

    def texts(self, rows: Rows) -> tuple[str, int]:
        """The letters, and the most symbols of a text that is drawn."""
        assert rows.classes is not None
        return alphabet_of(rows.classes), max(map(len, rows.classes.tolist())) + 1 + SPARE

    def columns(self, table: Table) -> dict[str, np.ndarray]:
        lengths = np.array([len(word) for word in table.y.tolist()])
        symbols = encoded_texts(table.y, alphabet_of(table.y), int(lengths.max()) + 1)
        return {"target": symbols, "length": lengths}

    def networks(self, rows: Rows) -> dict[str, Net]:
        alphabet, _ = self.texts(rows)
        network = SequenceNetwork(self.units)
        return {MODEL: self.net(lambda: network.make(rows.shape[-1], len(alphabet) + 1), self.loss_of(rows))}

    # --- what is learned ---------------------------------------------------------------------------------------------

    def noise(self, rows: Rows, size: int, generator: torch.Generator) -> dict[str, Tensor]:
        alphabet, longest = self.texts(rows)
        uniform = torch.rand(size, self.rollouts, longest, len(alphabet) + 1, generator=generator)
        return {"gumbel": -(-uniform.clamp(1e-9, 1 - 1e-7).log()).log()}

    def beforehand(self, learner: SupervisedLearner) -> Beforehand | None:
        if self.mix == 0:
            return None

        def drawn(batch: Batch, due: tuple[str, ...]) -> dict[str, Tensor]:
            with computing_on(learner.device):
                return {} if learner.iteration < self.warm else self.drawn(learner, batch)

        return drawn

    def drawn(self, learner: SupervisedLearner, batch: Batch) -> dict[str, Tensor]:
        """Texts `[seeds, rows, rollouts, length]` of a batch, and the credit of their symbols over all windows."""
        x, gumbel = batch["x"].flatten(2, 3), batch["noise"]["gumbel"]
        tokens = torch.stack([learner.output(MODEL, x, noise) for noise in gumbel.unbind(2)], 2)
        rewards = self.rewards(tokens, batch)
        if self.baseline == "mean":
            rewards = rewards - rewards.mean(2, keepdim=True)
        elif self.baseline == "greedy":
            greedy = learner.output(MODEL, x, torch.zeros_like(gumbel[:, :, 0]))
            rewards = rewards - self.rewards(greedy.unsqueeze(2), batch)
        valid = counted(tokens).movedim(-1, 0)
        credit = self.credit(rewards.movedim(-1, 0), valid).movedim(0, -1)
        return {"tokens": tokens, "credit": credit / self.windows_in(valid).sum((1, 2))[:, None, None, None]}

    def rewards(self, tokens: Tensor, batch: Batch) -> Tensor:
        """What each token of texts `[seeds, rows, k, length]` brings the distance down by, in the same shape."""
        shape, many = tokens.shape, tokens.shape[2]
        flat, target = tokens.flatten(0, 2), batch["target"].flatten(0, 1).repeat_interleave(many, 0)
        letters = counted(flat).sum(-1) - (flat == 0).any(-1).long()  # an end changes no text
        length = batch["length"].flatten().repeat_interleave(many, 0)
        return increments(flat, letters, target, length).view(shape).to(batch["x"].dtype)

    def model_loss(self, w: Weights, batch: Batch, rows: Rows) -> tuple[Tensor, dict[str, Tensor]]:
        x, target = batch["x"].flatten(1, 2), batch["target"]
        counts = counted(target)
        entropy = -(_chosen(w(MODEL, x, target), target) * counts).sum() / counts.sum()
        if "tokens" not in batch:
            return entropy, {"cross_entropy": entropy.detach()}
        each = [
            (batch["credit"][:, k] * _chosen(w(MODEL, x, tokens), tokens)).sum()
            for k, tokens in enumerate(batch["tokens"].unbind(1))
        ]
        gradient = -torch.stack(each).sum()
        return (1 - self.mix) * entropy + self.mix * gradient, {"cross_entropy": entropy.detach()}

    # --- what comes of it --------------------------------------------------------------------------------------------

    def model(self, learner: SupervisedLearner, index: int, facts: dict[str, Any]) -> SequenceModel:
        shape, (alphabet, longest) = learner.rows.shape, self.texts(learner.rows)
        vector = learner.weights[MODEL][index].detach().cpu()
        return SequenceModel(SequenceNetwork(self.units), (shape[1], shape[2]), vector, alphabet, longest, facts)

    def measured(self, model: Any, table: Table) -> dict[str, float]:
        """The character error rate: edit distance per letter."""
        return {"character_error": model.character_error(table)}

    def objective(self) -> str:
        reward = {"none": "r", "mean": "r − mean over rollouts", "greedy": "r − r of the greedy text"}[self.baseline]
        return (
            f"minimise (1 − {self.mix:g})·CE − {self.mix:g}/Z·Σ_t credit_t·log π(y_t),  credit = CᵀC r,  r ← {reward}"
        )

    def steps(self) -> list[str]:
        return [
            f"cross-entropy of the true texts; for {self.warm} epochs, nothing else",
            f"draw {self.rollouts} text(s) of every row; r_t = what token t brings the edit distance down by",
            f"credit of each step: {self.in_words()}",
            "Z: all windows of the batch",
        ]


def _chosen(logits: Tensor, tokens: Tensor) -> Tensor:
    """The log-probabilities of tokens."""
    return logits.log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


METHOD = PCPG
