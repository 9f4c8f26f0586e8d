"""Language tasks: prompts with a verifier, and where there are some, demonstrations.

`task` holds what a task is, `synthetic` the tasks that are made here, `reasoning` those of reasoning-gym, `files` rows
of prompts, `answers` how a completion's answer is found and compared; `resolve`, which knows them all, finds one by
name.
"""

from surefoot.envs.language.resolve import resolve, tasks
from surefoot.envs.language.task import Example, Task

__all__ = ["Example", "Task", "resolve", "tasks"]
