#!/bin/sh
# Installs the oldest versions that pyproject.toml allows into a fresh environment in a temporary folder, trains a tiny
# run of each kind with them, and runs a few tests. PYTHON names the interpreter, python3 if not given.
set -eu
cd "$(dirname "$0")/.."
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
"${PYTHON:-python3}" -m venv "$place/venv"
bin=$place/venv/bin
pip="$bin/python -m pip install --quiet --no-compile --disable-pip-version-check"

"$bin/python" - > "$place/floors.txt" <<'PYTHON'
import tomllib

project = tomllib.load(open("pyproject.toml", "rb"))["project"]
wanted = ("pytest", "pytest-timeout", "hypothesis", "beartype")
tests = [d for d in project["optional-dependencies"]["dev"] if d.split(">")[0] in wanted]
for requirement in project["dependencies"] + project["optional-dependencies"]["language"] + tests:
    print(requirement.replace(">=", "=="))
PYTHON
sort "$place/floors.txt"
$pip --upgrade pip
$pip "$(grep '^torch==' "$place/floors.txt")"
$pip -r "$place/floors.txt"
$pip --no-deps .

export OMP_NUM_THREADS=1
run() {
  echo "== surefoot $*"
  (cd "$place" && "$bin/surefoot" "$@")
}
tiny="--num-envs 2 --num-steps 16 --minibatch-size 16 --epochs 1 --steps 64"
run methods
run train ppo --env CartPole-v1 --run-dir gymnasium --backend gymnasium $tiny
run train ppo --env Pendulum-v1 --run-dir envpool --backend envpool $tiny
run train spo --env Hopper-v5 --run-dir mujoco --backend gymnasium $tiny
run train --resume mujoco
run evaluate gymnasium --episodes 2
run stress gymnasium --perturb sticky-action:0..0.5 --points 2 --episodes 1
run report gymnasium
run train dynamic-pg --env garnet:4,2,2,horizon=3 --steps 3 --run-dir tabular
run solve garnet:4,2,2 --ambiguity kl:0.1
run train grpo --task arithmetic:digits=1 --steps 1 --nano-warmup 5 --prompts 2 --samples 2 --run-dir language
run evaluate language --episodes 2
"$bin/python" -m pytest -q -p no:cacheprovider \
  tests/test_hyperparameters.py tests/models/test_agent.py tests/loops/common/test_train.py tests/loops/common/test_staging.py
echo "The floors hold."
