"""The papers' own experiments: each paper is a table of models, a protocol and a set of tables, run by one program."""

from overread.reproduction import (
    dainet,
    failure,
    relation_unet,
    ugsnet,
    unetmer,
    unetsharp,
    unetsharp_3d,
    unetsharp_instances,
)
from overread.reproduction.paper import PAPERS, Paper, Protocol, Row

__all__ = [
    "PAPERS",
    "Paper",
    "Protocol",
    "Row",
    "dainet",
    "failure",
    "relation_unet",
    "ugsnet",
    "unetmer",
    "unetsharp",
    "unetsharp_3d",
    "unetsharp_instances",
]
