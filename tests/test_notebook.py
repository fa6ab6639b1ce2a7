"""The notebook of the examples is executed, in a kernel of its own, as a person would."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "examples" / "notebook.ipynb"


class Client(NotebookClient):
    """Counts the messages of the kernel by their kind."""

    seen: ClassVar[list[str]] = []

    def process_message(self, msg: dict[str, Any], *rest: Any) -> Any:
        """Take note of one message."""
        self.seen.append(msg["msg_type"])
        return super().process_message(msg, *rest)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of the kernel's own machinery
def test_the_notebook_shows_a_search_in_one_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    Client.seen.clear()
    Client(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()
    (cell,) = [cell for cell in notebook.cells if cell.cell_type == "code" and "run(spec)" in cell.source]
    (output,) = cell.outputs  # one, and nothing on stderr beside it
    assert output.output_type == "display_data"
    assert set(output.data) == {"text/html", "text/plain"}  # no widget
    assert "20 of 20 trials done" in output.data["text/html"]
    assert "finished: all 20 trials are done" in output.data["text/html"]
    assert "left" not in output.data["text/html"]
    assert Client.seen.count("display_data") == 1
    assert Client.seen.count("update_display_data") > 3  # it was redrawn while trials ran
    best = notebook.cells[-2].outputs[0].data["text/plain"]
    assert set(eval(best)) == {"lr", "dropout", "optimizer"}
