"""F32: offline is the default and says so where it matters; the suite itself has no network."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from interp.core.errors import ModelError
from tests.support.sitecustomize import NetworkBlocked

HOST = ("203.0.113.7", 443)  # RFC 5737: routed nowhere


def test_connections_are_refused_here() -> None:
    with socket.socket() as plug, pytest.raises(NetworkBlocked):
        plug.connect(HOST)
    with pytest.raises(NetworkBlocked):
        socket.getaddrinfo("huggingface.co", 443)


def test_connections_are_refused_in_children() -> None:
    code = f"import socket; socket.socket().connect({HOST})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "NetworkBlocked" in done.stderr


def test_loopback_is_refused_unless_marked() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(NetworkBlocked):
        socket.create_connection(server.getsockname())


@pytest.mark.loopback
def test_loopback_is_open_where_marked_and_nothing_else() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()
    with socket.socket() as plug, pytest.raises(NetworkBlocked):
        plug.connect(HOST)


def test_a_hub_name_is_not_downloaded_and_the_error_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from interp.models import load_model

    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError) as caught:
        load_model("openai-community/gpt2")
    message = str(caught.value)
    assert "openai-community/gpt2" in message  # the thing
    assert "allow_download=True" in message or "folder" in message  # the way out


def test_a_download_that_cannot_reach_the_hub_ends_soon_in_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from interp.models import load_model

    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    with pytest.raises(ModelError) as caught:
        load_model("openai-community/no-such-model-anywhere", allow_download=True)
    assert "no-such-model-anywhere" in str(caught.value)
    assert sum(waits) < 30 and len(waits) < 10, "it tries again and again"


def test_a_folder_without_weights_names_what_is_missing(tmp_path: Path) -> None:
    from interp.models import load_model

    folder = tmp_path / "half-a-model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "gpt2", "n_layer": 2}')
    with pytest.raises(ModelError) as caught:
        load_model(str(folder))
    assert "half-a-model" in str(caught.value)
    assert "safetensors" in str(caught.value)
