"""Language tasks: prompts with a verifier, and where there are some, demonstrations.

`task` holds what a task is, `synthetic` those that are made here, `resolve` finds one by name.
"""

from surefoot.envs.language.task import Example, Task, resolve, tasks

__all__ = ["Example", "Task", "resolve", "tasks"]
