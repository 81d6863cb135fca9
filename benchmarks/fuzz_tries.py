"""What is tried: a damaged file, the commands that meet it, and what may come of it.

A try is judged by its `Outcome`. `accepted`: the file was used, and what came of it is right.
`refused`: an error or a finding that says what, where and a cure. `fault`: a bug, a traceback, or
an escape sequence on the terminal. `wrong`: a result that is not right, without a word.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import fuzz_damage as damage
import numpy as np
import small_gopro
import yaml

from trajectory_builder.cli import main
from trajectory_builder.errors import ImageError, UsageError
from trajectory_builder.images import pictures, png
from trajectory_builder.plan import recipe

READERS: tuple[png.ReaderName, ...] = ("kornia-rs", "opencv")
Try = Callable[[random.Random, Path], "Outcome"]


@dataclass(frozen=True)
class Outcome:
    """How one try ended: `accepted`, `refused`, `fault` or `wrong`, and what was seen."""

    verdict: str
    detail: str = ""


@dataclass(frozen=True)
class Ran:
    """A command that ran in this process: its exit code and all that it printed."""

    code: int
    out: str
    err: str

    def fault(self) -> str:
        """What no command may do, in words; empty where it did nothing of that."""
        said = self.out + self.err
        if "has a bug" in said or "Traceback" in said:
            return " ".join(said[said.find("has a bug") :].split("cure:")[0].split())[:300]
        if any(ord(c) < 32 and c not in "\n\r\t" for c in said) or "\u202e" in said:
            return "a control character was printed"
        if self.code not in (0, 1, 2, 3, 4, 5):
            return f"exit code {self.code}"
        if self.code in (1, 2) and "cure:" not in self.err and "Error:" not in self.err:
            return f"no cure: {self.err[-200:]}"
        return ""


def command(*arguments: object, program: Callable[[list[str]], None] = main) -> Ran:
    """Run `trajbuild`, or another of our programs, in this process."""
    out, err = io.StringIO(), io.StringIO()
    code: Any = 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            program([str(one) for one in arguments])
        except SystemExit as ended:
            code = ended.code
    return Ran(int(code or 0), out.getvalue(), err.getvalue())


@contextmanager
def _fresh(root: Path) -> Iterator[Path]:
    folder = root / "try"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    yield folder


def images(root: Path) -> Try:
    """PNGs through the strict reader, with both decoders, and through that of users' images."""
    frames = small_gopro.moving(3, (20, 14), seed=5)
    sound = [png.encode_png(frame, writer=writer) for frame in frames
             for writer in ("isal", "opencv")] * 2  # fmt: skip
    for other in (frames[0][:, :, 0], frames[0].astype(np.uint16) * 257,
                  np.dstack([frames[0], frames[1][:, :, 0]])):  # fmt: skip
        sound.append(cv2.imencode(".png", other)[1].tobytes())

    def attempt(rng: random.Random, folder: Path) -> Outcome:
        content = damage.damaged_png(rng, rng.choice(sound))
        true = damage.true_pixels(content)
        results: dict[str, tuple[Any, str]] = {
            reader: _read(partial(png.decode_png, content, name="a.png", reader=reader))
            for reader in READERS
        }
        loose = _read(lambda: np.asarray(pictures.decode(content, name="a.png").pixels))
        for name, (pixels, error) in (results | {"any image": loose}).items():
            if error and not error.startswith("frame-"):
                return Outcome("fault", f"{name}: {error}")
            if pixels is None:
                continue
            strict = name != "any image"
            same = true is not None and np.array_equal(pixels, true)
            # The reader of any image reads other kinds too, and may turn what has an orientation.
            if not same and (strict or pixels.shape == getattr(true, "shape", None)):
                return Outcome("wrong", f"{name}: other pixels than the file's")
        if len({error for _, error in results.values()}) > 1:
            return Outcome("wrong", f"the decoders differ: {[e for _, e in results.values()]}")
        refused = results["kornia-rs"][1]
        return Outcome("refused", refused) if refused else Outcome("accepted")

    return attempt


def _read(read: Callable[[], Any]) -> tuple[Any, str]:
    """The pixels, or why not: a fixed word, or the type of an exception that none may see."""
    try:
        return read(), ""
    except ImageError as error:
        complete = error.reason and error.what and error.where and error.cure
        return None, error.reason if complete else f"lacks a part: {error!r}"
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"


def videos(root: Path) -> Try:
    """Videos through `generate`; what it makes must be rebuilt equally by `verify --level deep`."""
    import av

    sound = {}
    for name, codec, layout in (
        ("a.mp4", "libx264", "yuv420p"), ("b.mkv", "libx264", "yuv420p"),
        ("c.avi", "mpeg4", "yuv420p"), ("d.ts", "libx264", "yuv420p"), ("e.mov", "png", "rgb24"),
    ):  # fmt: skip
        with av.open(str(root / name), "w") as file:
            stream: Any = file.add_stream(codec, rate=240)
            stream.width, stream.height, stream.pix_fmt = 64, 48, layout
            for pixels in small_gopro.moving(18, (64, 48), seed=6):
                file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            file.mux(stream.encode(None))
        sound[name] = (root / name).read_bytes()

    def attempt(rng: random.Random, folder: Path) -> Outcome:
        name = rng.choice(sorted(sound))
        (folder / name).write_bytes(damage.damaged_bytes(rng, sound[name]))
        out = folder / "out"
        made = command("generate", "--src", folder / name, "--out", out, "--n-frames", "3,5",
                       "--motion-floor", "0", "--jobs", "1", "--no-progress")  # fmt: skip
        if made.fault():
            return Outcome("fault", f"{name}: {made.fault()}")
        if not (out / "train/metadata.parquet").exists():
            if made.code == 0:
                return Outcome("wrong", f"{name}: exit 0 and no pairs")
            return Outcome("refused", made.err.split("\n")[0][:120])
        checked = command("verify", out, "--level", "deep", "--jobs", "1")
        if checked.fault():
            return Outcome("fault", f"{name}: verify: {checked.fault()}")
        if made.code not in (0, 4) or checked.code != 0:
            return Outcome("wrong", f"{name}: exit {made.code}, then verify {checked.code}:"
                                    f" {checked.out[:200]}")  # fmt: skip
        return Outcome("accepted" if made.code == 0 else "refused", f"exit {made.code}")

    return attempt


FURTHER: tuple[tuple[str, ...], ...] = (
    ("stats", "--by", "clip_id"), ("diff", "BUILT"), ("explain", "GOPR0001_11_00/000003/n07"),
    ("select", "--where", "n_frames > 5"), ("split", "--by", "trajectory", "--out", "made"),
    ("select", "--where", "motion_px > 1", "--out", "made"), ("merge", "BUILT", "--out", "made"),
    ("export", "--to", "folders", "--jobs", "1", "--out", "made"),
    ("export", "--to", "webdataset", "--jobs", "1", "--out", "made"),
    ("export", "--to", "lmdb", "--jobs", "1", "--out", "made"),
    ("export", "--to", "hf", "--jobs", "1", "--out", "made"),
    ("verify", "--level", "deep", "--jobs", "1"),
)  # fmt: skip
"""One of these meets each damaged set too."""
COMMANDS = (("verify", "--level", "full", "--jobs", "1"), ("stats",), ("report",))


def data_sets(root: Path) -> Try:
    """Damaged manifests and records of a real build, through `verify`, `stats`, `report`, and more.

    A try ends with one further command, drawn from `FURTHER`.
    """
    source, _ = small_gopro.make(root, {"train/GOPR0001_11_00": 2, "test/GOPR0002_07_00": 1},
                                 size=(32, 24))  # fmt: skip
    built = root / "built"
    ran = command("expand", "--src", source, "--out", built, "--jobs", "1", "--no-progress")
    if ran.code:
        raise RuntimeError(ran.err)

    def attempt(rng: random.Random, folder: Path) -> Outcome:
        out = folder / "set"
        shutil.copytree(built, out)
        what, must_be_found = _damage_set(rng, out)
        page = ["--out", folder / "page.html"]
        ran = {words[0]: command(words[0], out, *words[1:], *(page if words == ("report",) else []))
               for words in COMMANDS}  # fmt: skip
        name, *words = rng.choice(FURTHER)
        words = [{"BUILT": str(built), "made": str(folder / "made")}.get(w, w) for w in words]
        ran[" ".join((name, *words[:2]))] = command(name, out, *words)
        for name, one in ran.items():
            if one.fault():
                return Outcome("fault", f"{what}: {name}: {one.fault()}")
        unseen = [name for name in must_be_found if ran[name].code == 0]
        if unseen:
            return Outcome("wrong", f"{what}: {', '.join(unseen)} gave 0")
        codes = [one.code for one in ran.values()]
        return Outcome("refused" if any(codes) else "accepted", f"{what}: {codes}")

    return attempt


def _damage_set(rng: random.Random, out: Path) -> tuple[str, tuple[str, ...]]:
    """Damage one file of a build: what was done, and the commands that must notice it."""
    kind = rng.choice(["bytes", "bytes", "sealed", "rows", "rows"])
    if kind == "bytes":
        name = rng.choice(["train/metadata.parquet", "build.json", ".trajbuild/config.json",
                           "train/metadata.parquet", "README.md"])  # fmt: skip
        before = (out / name).read_bytes()
        after = damage.damaged_bytes(rng, before)
        (out / name).write_bytes(after)
        if after == before:
            return "nothing changed", ()
        if name.endswith(".json") and _same_json(before, after):
            return f"spaces of {name}", ()
        if name.endswith(".parquet"):
            return f"bytes of {name}", ("verify", "stats", "report")
        return f"bytes of {name}", ("verify",)
    if kind == "sealed":
        build = json.loads((out / "build.json").read_text())
        _seal(out, damage.odd_json(rng, build))
        return "build.json with odd values, sealed", ()
    return _odd_rows(rng, out)


def _same_json(before: bytes, after: bytes) -> bool:
    try:
        same: bool = json.loads(before) == json.loads(after)
    except (ValueError, RecursionError):
        return False
    return same


def _seal(out: Path, build: Any) -> None:
    """Write build.json with its digest right, as anybody can."""
    from trajectory_builder.build import record

    try:
        build.pop("sha256", None)
        record.write_build(out, build)
    except (ValueError, UnicodeError):
        (out / "build.json").write_text(json.dumps(build))


def _odd_rows(rng: random.Random, out: Path) -> tuple[str, tuple[str, ...]]:
    """A readable Parquet file with one column odd, and a record that agrees with it or is gone."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = out / "train/metadata.parquet"
    table = pq.read_table(path)
    column = rng.choice(table.column_names)
    at, field = table.column_names.index(column), table.schema.field(column)
    kind = rng.choice(["value", "value", "null", "type", "drop", "double", "no rows", "extra"])
    if kind in ("value", "null"):
        values = table[column].to_pylist()
        odd = None if kind == "null" else rng.choice(damage.ODD_VALUES)
        values[rng.randrange(len(values))] = odd
        try:
            new = pa.array(values, field.type)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            new = pa.array([str(v) for v in values])
        # Of no schema that forbids nulls: a stranger's file need not keep ours.
        table = table.set_column(at, pa.field(column, new.type), new)
    elif kind == "type":
        other = rng.choice([pa.string(), pa.int64(), pa.float64(), pa.binary(), pa.bool_()])
        table = table.set_column(at, column, pa.nulls(table.num_rows, other))
    elif kind == "drop":
        table = table.drop_columns([column])
    elif kind == "double":
        table = pa.concat_tables([table, table.slice(0, 1)])
    elif kind == "no rows":
        table = table.slice(0, 0)
    else:
        name = rng.choice(["kernel_path", "camera", "\x1b[31mred", "x"])
        other = rng.choice([pa.array(["/etc/passwd"] * len(table)), pa.array([7] * len(table))])
        table = table.append_column(name, other)
    pq.write_table(table, path)
    if rng.random() < 0.5:
        (out / "build.json").unlink()
    else:
        build = json.loads((out / "build.json").read_text())
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        build["manifests"]["train/metadata.parquet"]["sha256"] = digest
        _seal(out, build)
    return f"rows: {kind} in {column}", ()


def recipes(root: Path) -> Try:
    """Damaged recipes through `plan`; one that is taken means what YAML says."""
    source, _ = small_gopro.make(root, {"train/GOPR0001_11_00": 2, "train/GOPR0002_07_00": 1},
                                 size=(16, 12))  # fmt: skip
    texts = [path.read_text() for path in recipe.built_in().values()]

    def attempt(rng: random.Random, folder: Path) -> Outcome:
        file = folder / "mine.yaml"
        file.write_text(damage.damaged_yaml(rng, rng.choice(texts)))
        ran = command("plan", "--src", source, "--recipe", file)
        if ran.fault():
            return Outcome("fault", f"{ran.fault()} <- {file.read_text()[:200]!r}")
        if ran.code:
            return Outcome("refused", ran.err.split("\n")[0][:120])
        try:
            meant = {str(k): "all" if v == "all" else list(v)
                     for k, v in yaml.safe_load(file.read_text())["windows"].items()}  # fmt: skip
            taken = recipe.load_recipe(str(file)).as_data()["windows"]
        except (UsageError, yaml.YAMLError, TypeError) as error:
            return Outcome("wrong", f"plan took what cannot be read: {error}")
        if meant != taken:
            return Outcome("wrong", f"{meant} became {taken}")
        return Outcome("accepted")

    return attempt


def models(root: Path) -> Try:
    """Damaged model folders; what they need takes seconds to import."""
    from fuzz_models import models as tries

    return tries(root)


KINDS: dict[str, Callable[[Path], Try]] = {
    "images": images, "videos": videos, "data sets": data_sets, "recipes": recipes,
    "models": models,
}  # fmt: skip


def run_tries(kind: str, seed: int, first: int, count: int, root: Path) -> Iterator[dict[str, Any]]:
    """Run tries one after the other; before each a line that names it, after each its outcome."""
    os.chdir(root)
    attempt = KINDS[kind](root)
    for index in range(first, first + count):
        yield {"begins": index}
        rng = random.Random(f"{kind}/{seed}/{index}")
        with _fresh(root) as folder:
            try:
                outcome = attempt(rng, folder)
            except MemoryError:
                outcome = Outcome("fault", "out of memory")
        yield {"index": index, "verdict": outcome.verdict, "detail": outcome.detail}
