"""The notebooks: each runs from a fresh kernel, is small, and shows what it gave when committed."""

from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
ON_EACH = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path):
    return nbformat.read(path, as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_there_are_four_notebooks():
    assert len(NOTEBOOKS) == 4


@pytest.mark.slow
@ON_EACH
def test_notebook_runs_from_a_fresh_kernel(path, tmp_path):
    nbclient = pytest.importorskip("nbclient")
    notebook = read(path)
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()  # raises with the cell and its traceback
    assert all(cell.execution_count for cell in code(notebook))


@ON_EACH
def test_notebook_stays_under_300_kilobytes(path):
    assert path.stat().st_size < 300_000


@ON_EACH
def test_notebook_is_committed_with_a_picture_of_what_it_made(path):
    kinds = {
        kind
        for cell in code(read(path))
        for output in cell.outputs
        for kind in output.get("data", {})
    }
    assert kinds & {"image/png", "image/jpeg"}


@ON_EACH
def test_committed_outputs_are_of_one_run_from_top_to_bottom(path):
    counts = [cell.execution_count for cell in code(read(path))]
    assert counts == list(range(1, len(counts) + 1))


@ON_EACH
def test_committed_outputs_name_no_folder_of_a_machine(path):
    text = str([cell.outputs for cell in code(read(path))])
    assert "/tmp" not in text
    assert "/home/" not in text


@ON_EACH
def test_notebook_names_its_section_of_the_paper(path):
    first = read(path).cells[0]
    assert first.cell_type == "markdown"
    assert "section" in first.source


@ON_EACH
def test_notebook_uses_public_names_alone(path):
    source = "\n".join(cell.source for cell in code(read(path)))
    assert "from trajectory_builder" not in source
    assert "from fidediff_model" not in source
