"""Ways to damage a finished data set of two parts of train, and what finds that."""

import io
import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq


def edit_json(change):
    def edit(path):
        path.write_text(json.dumps(change(json.loads(path.read_text()))))

    return edit


def edit_rows(change):
    def edit(path):
        table = pq.read_table(path)
        pq.write_table(pa.Table.from_pylist(change(table.to_pylist()), schema=table.schema), path)

    return edit


def cut(path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def remove(path) -> None:
    path.unlink()


def empty(path) -> None:
    path.write_bytes(b"")


def swap_parts(*stages: str):
    def edit(root):
        for stage in stages:
            for one in (root / stage / "train").glob("part_0.*"):
                other = one.with_name(one.name.replace("part_0", "part_1"))
                one.rename(root / "aside")
                other.rename(one)
                (root / "aside").rename(other)

    return edit


def swapped(rows, name):
    """The first row with another value than the last has that row's, and the other way round."""
    other = next(n for n in range(len(rows) - 1, 0, -1) if rows[n][name] != rows[0][name])
    rows[0][name], rows[other][name] = rows[other][name], rows[0][name]
    return rows


def first_row(**values):
    return edit_rows(lambda rows: [rows[0] | values, *rows[1:]])


def relabelled(rows):
    """A class of a video changed, and its label with it."""
    other = next(row for row in rows if row["class_index"] != rows[0]["class_index"])
    return [rows[0] | {name: other[name] for name in ("label", "class_index")}, *rows[1:]]


def without_member(path) -> None:
    """A tar that is whole, and lacks its first member."""
    with tarfile.open(path) as archive:
        members = [(member, archive.extractfile(member).read()) for member in archive]
    with tarfile.open(path, "w") as archive:
        for member, content in members[1:]:
            archive.addfile(member, io.BytesIO(content))


def another_class(path) -> None:
    """A clip's class in the tar itself, which has no checksum of contents."""
    with tarfile.open(path) as archive:
        member = next(member for member in archive if member.name.endswith(".cls"))
    data = bytearray(path.read_bytes())
    data[member.offset_data] = ord("9")
    path.write_bytes(data)


CLASSES, MANIFEST, INFO = "annotations/classes.json", "manifest.parquet", "dataset.json"
ANNOTATE, AGAIN = "`v4d annotations --only classes`", "`v4d manifest`"
DAMAGES = {
    "two class names swapped": (CLASSES, edit_json(lambda c: [c[1], c[0], *c[2:]]), ANNOTATE),
    "a class less": (CLASSES, edit_json(lambda c: c[:-1]), ANNOTATE),
    "a class more": (CLASSES, edit_json(lambda c: [*c, "more"]), ANNOTATE),
    "a class twice": (CLASSES, edit_json(lambda c: [c[0], *c[:-1]]), ANNOTATE),
    "classes no list": (CLASSES, edit_json(lambda c: {"classes": c}), ANNOTATE),
    "no classes": (CLASSES, edit_json(lambda _: []), ANNOTATE),
    "classes cut": (CLASSES, cut, ANNOTATE),
    "classes empty": (CLASSES, empty, ANNOTATE),
    "classes gone": (CLASSES, remove, ANNOTATE),
    "fingerprint edited": (INFO, edit_json(lambda i: i | {"fingerprint": "0" * 64}), AGAIN),
    "settings edited": (INFO, edit_json(lambda i: i | {"settings": {"clips": {}}}), AGAIN),
    "counts edited": (INFO, edit_json(lambda i: i | {"counts": {"train": {"ok": 9}}}), AGAIN),
    "number of classes edited": (INFO, edit_json(lambda i: i | {"classes": 5}), AGAIN),
    "dataset.json cut": (INFO, cut, AGAIN),
    "dataset.json a list": (INFO, edit_json(lambda i: [i]), AGAIN),
    "a row twice": (MANIFEST, edit_rows(lambda rows: [*rows, rows[0]]), AGAIN),
    "a row missing": (MANIFEST, edit_rows(lambda rows: rows[1:]), AGAIN),
    "two labels swapped": (MANIFEST, edit_rows(lambda rows: swapped(rows, "label")), AGAIN),
    "two ids swapped": (MANIFEST, edit_rows(lambda rows: swapped(rows, "video_id")), AGAIN),
    "a label changed": (MANIFEST, first_row(label="something else"), AGAIN),
    "a class and its label changed": (MANIFEST, edit_rows(relabelled), AGAIN),
    "class_index out of range": (MANIFEST, first_row(class_index=1000), AGAIN),
    "class_index negative": (MANIFEST, first_row(class_index=-1), AGAIN),
    "no frames": (MANIFEST, first_row(num_frames=0), AGAIN),
}
"""What `v4d verify` and the start of a training find: the file, the damage, the command that mends it."""

_PART = "--config ... --split train --part part_1"
TAR, CLIPS = "clips/train/part_1.tar", f"v4d clips {_PART}"
DEEPER = {
    "another data set": (INFO, edit_json(lambda i: i | {"name": "other"}), AGAIN),
    "another source": (INFO, edit_json(lambda i: i | {"source": "folder"}), AGAIN),
    "another part": (MANIFEST, edit_rows(lambda rows: swapped(rows, "part")), AGAIN),
    "a ledger's row twice": (
        "frames/train/part_1.parquet",
        edit_rows(lambda rows: [*rows, rows[0]]),
        f"v4d frames {_PART}",
    ),
    "parts swapped": ("", swap_parts("frames"), f"v4d frames {_PART}"),
    "clips swapped": ("", swap_parts("clips"), CLIPS),
    "clips cut": (TAR, cut, CLIPS),
    "clips empty": (TAR, empty, CLIPS),
    "a clip less": (TAR, without_member, CLIPS),
    "a clip's class": (TAR, another_class, CLIPS),
    "clips without ledger": ("clips/train/part_1.parquet", remove, CLIPS),
}
"""What only `v4d verify` finds."""
