"""The driver of the browser, without one."""

from __future__ import annotations

from pathlib import Path

import pytest

from overread.testing.browser import browsing, find_chromium

ECHO = """#!/usr/bin/env python3
import json, os
buffer = b""
while part := os.read(3, 4096):
    *whole, buffer = (buffer + part).split(b"\\0")
    for message in map(json.loads, whole):
        told = {"id": message["id"], "result": {"targetId": "t", "sessionId": "s"}}
        if message["method"] == "Runtime.evaluate":
            event = {"method": "Log.entryAdded", "params": {"entry": {"level": "error", "text": "refused"}}}
            os.write(4, json.dumps(event).encode() + b"\\0")
            told["result"] = {"result": {"value": message["params"]["expression"] + message["sessionId"]}}
        if message["method"] == "Page.unknown":
            told = {"id": message["id"], "error": {"message": "no such method"}}
        os.write(4, json.dumps(told).encode() + b"\\0")
"""
"""Speaks the protocol as far as needed, on the descriptors 3 and 4."""


def test_the_variable_names_the_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHROMIUM", "/somewhere/chrome")
    assert find_chromium() == "/somewhere/chrome"
    monkeypatch.delenv("CHROMIUM")
    monkeypatch.setenv("PATH", "")
    assert find_chromium() is None


def test_commands_go_to_the_page_and_its_complaints_are_kept(tmp_path: Path) -> None:
    echo = tmp_path / "echo"
    echo.write_text(ECHO)
    echo.chmod(0o755)
    with browsing(str(echo), tmp_path, seconds=20) as browser:
        assert browser.run("1 + 1 in ") == "1 + 1 in s"
        assert browser.complaints == ["refused"]
        with pytest.raises(RuntimeError, match="no such method"):
            browser.call("Page.unknown")


def test_a_browser_that_ends_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="the browser ended"), browsing("/bin/false", tmp_path, seconds=20):
        pass
