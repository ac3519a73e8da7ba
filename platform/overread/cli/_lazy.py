"""A click group that imports a command's module only when the command is used: `overread --help` stays fast."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click

from overread.errors import unknown_name


class LazyGroup(click.Group):
    """A group whose commands are given as `module:function` strings."""

    def __init__(self, *args: Any, commands: Mapping[str, str], **options: Any) -> None:
        super().__init__(*args, **options)
        self._paths = dict(commands)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in their given order."""
        return list(self._paths)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        """Import and return a command; an unknown name lists the known ones."""
        if cmd_name not in self._paths:
            raise unknown_name("command", cmd_name, self._paths)
        module, _, function = self._paths[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), function)
        return command
