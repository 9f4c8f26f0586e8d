"""Language tasks: prompts with a verifier and, for some, demonstrations.

`task` defines tasks, `synthetic` has Surefoot's own tasks, `reasoning` those of reasoning-gym, `files` rows of prompts,
`sources` rows in memory and of the hub, `answers` finds a completion's answer and compares it; `resolve` finds any of
these tasks by name.
"""

from surefoot.envs.language.resolve import resolve, tasks
from surefoot.envs.language.task import Example, Task

__all__ = ["Example", "Task", "resolve", "tasks"]
