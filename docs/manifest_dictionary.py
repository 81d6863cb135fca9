"""The data dictionary of manifests: manifests/README.md, told by the schema and the plan.

`python docs/manifest_dictionary.py > manifests/README.md` writes it anew; a test
holds the file against what this module says, so the two cannot drift.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from trajectory_builder import manifest
from trajectory_builder.plan import recipe
from trajectory_builder.plan import table as plan_table
from trajectory_builder.trajectory import SPLITS

PUBLISHED = Path("manifests/gopro_fidediff_7877.parquet")
"""The committed plan, from the root of the repository."""

_NAMES = {"bool": "boolean", "float": "float32", "double": "float64"}

_HEAD = """\
# Manifests

A manifest is the Parquet table of what stands on disk, one row a pair of a blur and its sharp
image. It is the contract between the builder and whatever trains on its output: everything a
reader needs stands in the columns, nothing in file names. Written by
`python docs/manifest_dictionary.py`; change the schema, not this file.
"""

_METADATA = """\
## Metadata of the file

Entries of the Parquet schema's metadata begin with `trajbuild.`.

| entry | meaning |
|---|---|
| `format_version` | `{version}`; a reader refuses any other |
| `recipe` | name of the recipe |
| `config_sha256` | digest of all that decides the pairs |
| `source` | kind of the source, such as `gopro` |
| `timestep_map` | `frames`: t follows from n_frames; `exposure`: from the window's time |
| `timestep_step` | timesteps for one more averaged frame |

There is no clock, host or absolute path in it: equal input and recipe give equal bytes under one
version of pyarrow. `build.json` beside the split folders holds each manifest's SHA-256 and a
digest of its rows that does not depend on the writer.
"""

_READING = """\
## Reading

```python
from trajectory_builder import manifest

pairs = manifest.read("GOPRO_Large_trajectories")  # a folder, a split's folder, a file, or several
pairs.table  # a pyarrow table with the columns above
pairs.file(0, "blur_file_name")  # the file of row 0, refused if it leads out
```

`datasets.load_dataset("imagefolder", data_dir="GOPRO_Large_trajectories")` reads the same folder
with the image columns `blur` and `sharp`. Any Parquet reader will do. Give it the manifests, not
the folder, which contains other files too; file names are relative to the folder of their split.
pandas:

```python
import pandas as pd
from pathlib import Path

files = sorted(Path("GOPRO_Large_trajectories").glob("*/metadata.parquet"))
pairs = pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)
pairs["blur"] = pairs["split"] + "/" + pairs["blur_file_name"]
```

polars:

```python
import polars as pl

pairs = pl.read_parquet("GOPRO_Large_trajectories/*/metadata.parquet")
pairs = pairs.with_columns(blur=pl.col("split") + "/" + pl.col("blur_file_name"))
strong = pairs.filter(pl.col("n_frames") >= 9)
```

DuckDB:

```python
import duckdb

rows = "SELECT *, split || '/' || blur_file_name AS blur"
pairs = duckdb.sql(f"{rows} FROM 'GOPRO_Large_trajectories/*/metadata.parquet'")
strong = pairs.filter("n_frames >= 9")
```

Two things to know: pages carry checksums which most readers check only when asked (in pyarrow
`page_checksum_verification=True`), and paths of a manifest from a stranger must be checked before
they are opened, as `manifest.read` does.

## Training on it

`TrajectoryPairs` is a data set for PyTorch's own `DataLoader` and needs nothing of
`fidediff_model`. Blurs and sharp image get the same crop and flip. With `points=k` an item is k
blurs of one trajectory, ascending in n, with the sharp image that they share. `TrajectorySampler`
takes every trajectory once per epoch, with one of its n, drawn evenly or by `weights`; crops then
depend on seed, epoch and pair alone, whatever the number of workers.

```python
from torch.utils.data import DataLoader
from trajectory_builder import TrajectoryPairs, TrajectorySampler

pairs = TrajectoryPairs("GOPRO_Large_trajectories", crop=64)
loader = DataLoader(pairs, batch_size=4, sampler=TrajectorySampler(pairs, weights={5: 0.5}))
batch = next(iter(loader))
batch["blur"], batch["sharp"]  # (4, 3, 64, 64), from 0 to 1
batch["timestep"]  # (4,)
```
"""


def text(published: Path = PUBLISHED) -> str:
    """The whole of manifests/README.md.

    Args:
        published: the committed plan, whose counts are told.

    Raises:
        OSError: it is not there.
    """
    parts = [_HEAD, _columns(), _METADATA.format(version=manifest.FORMAT_VERSION), _READING]
    return "\n".join([*parts, _published(published)])


def _columns() -> str:
    lines = [
        f"## Columns of schema version {manifest.FORMAT_VERSION}",
        "",
        *_table(manifest.SCHEMA),
        "",
        "Further columns may follow, and readers take those they know. `trajbuild generate` adds"
        " these where they apply:",
        "",
        *_table(manifest.FURTHER),
        "",
        "Rows stand in plan order: split, clip,",
        "number of the pair, n_frames. Parquet 2.6 with zstd and row groups of at most"
        f" {manifest.ROWS_A_GROUP:,} rows.",
        "",
    ]
    return "\n".join(lines)


def _table(schema: pa.Schema) -> list[str]:
    lines = ["| column | type | null | meaning |", "|---|---|---|---|"]
    for field in schema:
        meaning = (field.metadata or {}).get(b"meaning", b"").decode()
        null = "yes" if field.nullable else "no"
        lines.append(f"| `{field.name}` | {_type(field.type)} | {null} | {meaning} |")
    return lines


def _type(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return f"list of {_type(kind.value_type)}"
    return _NAMES.get(str(kind), str(kind))


def _published(path: Path) -> str:
    """Of the committed plan: what it is, its counts, its further columns."""
    table = pq.read_table(path, page_checksum_verification=True)
    chosen = recipe.load_recipe(recipe.DEFAULT)
    counts = table.group_by(["split", "n_frames"]).aggregate([([], "count_all")]).to_pylist()
    order = {split: rank for rank, split in enumerate(SPLITS)}
    counts.sort(key=lambda row: (order[row["split"]], row["n_frames"]))
    further = pa.schema([f for f in plan_table.SCHEMA if f.name not in manifest.SCHEMA.names])
    lines = [
        f"## {path.name}",
        "",
        f"The plan of recipe `{chosen.name}` for the whole GoPro set, {table.num_rows:,} rows, made"
        " from file names",
        f"alone: `trajbuild plan --src GOPRO_Large --out {path.name}`. The recipe gives the",
        "paper's number of training pairs; the paper's list is not published. It holds the columns",
        "above that need no pixels, and these:",
        "",
        *_table(further),
        "",
        "| split | n_frames | timestep | pairs |",
        "|---|---|---|---|",
    ]
    for row in counts:
        step = (row["n_frames"] - 1) * chosen.timestep_step
        pairs = row["count_all"]
        lines.append(f"| {row['split']} | {row['n_frames']} | {step} | {pairs:,} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    import click

    click.echo(text(), nl=False)
