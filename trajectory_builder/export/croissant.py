"""Croissant 1.0 metadata (mlcommons.org/croissant) of a Hugging Face export, as plain JSON-LD.

One record set per split, over the set of its shards; export.json has the shards' digests.
"""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from trajectory_builder.curate import card
from trajectory_builder.version import __version__

NAME = "croissant.json"
LICENCES = {
    "cc-by-4.0": "https://creativecommons.org/licenses/by/4.0/",
    "cc-by-sa-4.0": "https://creativecommons.org/licenses/by-sa/4.0/",
    "cc-by-nc-4.0": "https://creativecommons.org/licenses/by-nc/4.0/",
    "cc0-1.0": "https://creativecommons.org/publicdomain/zero/1.0/",
}
CITATION = (
    "Seungjun Nah, Tae Hyun Kim and Kyoung Mu Lee: Deep Multi-scale Convolutional Neural Network"
    " for Dynamic Scene Deblurring, CVPR 2017"
)
CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


def described(card_text: str, splits: Iterable[str], schema: pa.Schema) -> dict[str, object]:
    """The JSON-LD of an export.

    Args:
        card_text: the export's card; its head gives the licence.
        splits: those that have shards `data/SPLIT-*.parquet`.
        schema: columns of the shards. Lists of images and bytes that are no image have no
            Croissant type and are left out.
    """
    head, _ = card.split_front(card_text)
    licence = str(head.get("license", "other"))
    names = list(splits)
    content: dict[str, object] = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": "blur-trajectories",
        "description": "Pairs of a blur, the mean of n frames, and its sharp centre frame;"
        " all windows round one centre frame form a trajectory.",
        "version": __version__,
        "license": LICENCES.get(licence, licence),
        "url": "https://huggingface.co/datasets",
        "distribution": [_file_set(split) for split in names],
        "recordSet": [_record_set(split, schema) for split in names],
    }
    if licence == "cc-by-4.0":
        content["citeAs"] = CITATION
    return content


def _file_set(split: str) -> dict[str, object]:
    return {
        "@type": "cr:FileSet",
        "@id": f"{split}-shards",
        "name": f"{split}-shards",
        "includes": f"data/{split}-*.parquet",
        "encodingFormat": "application/x-parquet",
    }


def _record_set(split: str, schema: pa.Schema) -> dict[str, object]:
    fields = [_field(split, one) for one in schema if _data_type(one.type)]
    return {"@type": "cr:RecordSet", "@id": split, "name": split, "field": fields}


def _field(split: str, field: pa.Field) -> dict[str, object]:
    source: dict[str, object] = {
        "fileSet": {"@id": f"{split}-shards"},
        "extract": {"column": field.name},
    }
    if pa.types.is_struct(field.type):
        source["transform"] = {"jsonPath": "bytes"}
    described = {
        "@type": "cr:Field",
        "@id": f"{split}/{field.name}",
        "name": field.name,
        "dataType": _data_type(field.type),
        "source": source,
    }
    return described | ({"repeated": True} if pa.types.is_list(field.type) else {})


def _data_type(kind: pa.DataType) -> str:
    if pa.types.is_struct(kind):
        return "sc:ImageObject"
    if pa.types.is_list(kind):
        return "" if pa.types.is_struct(kind.value_type) else _data_type(kind.value_type)
    if pa.types.is_binary(kind):
        return ""
    if pa.types.is_integer(kind):
        return "sc:Integer"
    return "sc:Float" if pa.types.is_floating(kind) else "sc:Text"
