"""The page about objects in storage, with the limits from the code."""

from __future__ import annotations

import re

from aggregation.formats import FORMATS, MAX_JSON_BYTES
from aggregation.formats.int8 import BLOCK, INT8, LARGEST, SCALES
from aggregation.formats.safetensors_header import COMPRESSION
from aggregation.formats.topk import ENTRIES, ENTRY, OFFSETS, TOPK
from aggregation.layout import DTYPES
from aggregation.round.port import OPTIMIZER_STATE
from local.reference.markdown import code, page, table


def storage_page() -> str:
    """Return the page about keys, metadata, formats and dtypes."""
    # Imported here because Django must be set up first.
    from connectors.intake.scores import MAX_SCORE_BYTES
    from connectors.storage.keys import MAX_KEY_BYTES

    return page(
        "Storage",
        "The objects in the bucket, or below `STORAGE_ROOT`.",
        "## Keys",
        table(["key", "written by", ""], _keys()),
        f"A client's id is in lower case, with hyphens. A key has at most {MAX_KEY_BYTES} bytes. The "
        "operator decides who may write where: see the [threat model](../security.md).",
        "## Metadata of an update",
        _metadata_table(),
        "In S3's headers each name begins with `x-amz-meta-`. An update whose metadata have a name that "
        "resembles one of these, such as `num_examples`, is rejected. Other names are ignored.",
        "## Formats",
        "The extension of the name is the format: "
        + ", ".join(f"`.{name}`" for name in FORMATS)
        + ".",
        table(["format", "as written by", "limits"], _formats(MAX_JSON_BYTES)),
        "The dtypes, by the names that safetensors gives them: "
        + ", ".join(map(code, DTYPES))
        + ". The aggregate has the "
        "format, names, shapes and dtypes of the model.",
        "## Compressed updates",
        *_compressed_updates(),
        "## latest.json and scores",
        "[Sending an update](../clients.md#the-objects) lists their fields. A score has at most "
        f"{MAX_SCORE_BYTES >> 10} KiB.",
    )


def _compressed_updates() -> list[str]:
    return [
        "An update of a model whose `update_kind` is `differences` may be a safetensors object with an "
        f"entry `{COMPRESSION}` in the metadata of its header. A block is {BLOCK} elements of one "
        "flattened tensor of floating-point numbers; the last block of a tensor has fewer. Tensors of "
        "integers and booleans are as in the model. The header lists the tensors in the order of their "
        "data.",
        f"With `{COMPRESSION}: {INT8}`",
        "- a tensor of floating-point numbers is I8, with the name and shape of the model's;\n"
        f"- the F32 tensor `{SCALES}`, of one dimension, has a scale for each block: those of all tensors, "
        "in their order. A scale is finite and not negative;\n"
        "- an element is its 8-bit number times the scale of its block, computed in float32 and converted "
        "to the dtype of the model's tensor.",
        f"The client package writes `scale = max |x| / {LARGEST}` and `round(x / scale)`.",
        f"With `{COMPRESSION}: {TOPK}`",
        "- a tensor of floating-point numbers is empty, with the name and dtype of the model's, and a "
        "shape that is 0 followed by the model's;\n"
        f"- the U8 tensor `{ENTRIES}` has a row of {ENTRY.itemsize} bytes for each element that is not "
        "zero: the index within its block as U16, and the value as F32, both little-endian. In each block, "
        "the indices increase;\n"
        f"- the U64 tensor `{OFFSETS}`, of one dimension, has for each tensor of floating-point numbers, "
        "in their order, the number of the first row of each block, and then the end of the last block's "
        "rows.",
        f"A model that has a tensor called `{SCALES}`, `{ENTRIES}` or `{OFFSETS}` takes no updates of the "
        "compression that needs the name.",
    ]


def _metadata_table() -> str:
    return table(
        ["name", "value", "absent"],
        [
            ["`num-examples`", "a whole number from 1 to `MAX_NUM_EXAMPLES`", "1"],
            [
                "`num-steps`",
                "steps of local training, a whole number from 1 to `MAX_NUM_EXAMPLES`",
                "rejected if the rule is `normalized_mean`",
            ],
            [
                "`base-aggregate`",
                "id of the aggregate it was trained from",
                "the initial model",
            ],
            [
                "`update-kind`",
                "`weights` or `differences`, as the model expects",
                "not checked",
            ],
        ],
    )


def _keys() -> list[list[str]]:
    # Imported here because Django must be set up first.
    from connectors.storage.keys import (
        MASKS,
        PLANS,
        SCORE_KEY_FORM,
        UPDATE_KEY_FORM,
        aggregate_key,
        credentials_key,
        pointer_key,
        progress_key,
        seed_key,
    )

    result = re.sub(r"[0-9a-f]{32}", "<random>", aggregate_key(3, 5, "safetensors"))
    state = result.replace(".safetensors", f".{OPTIMIZER_STATE}")
    return [
        [code(UPDATE_KEY_FORM), "the client", "an update; each has a new name"],
        [code(SCORE_KEY_FORM), "the client", "what it measured of an aggregate"],
        [code(result), "the function", "the weights of round 5 of model 3; they never change"],
        [
            code(state),
            "the function",
            "the state that the [server optimizer](optimizers.md) left with them, as safetensors",
        ],
        [code(pointer_key(3)), "the function", "which weights of model 3 to train from"],
        [
            code(progress_key(3)),
            "the function, if clients use the API",
            "how many updates of model 3 are ready and needed",
        ],
        [
            code("status/<federated_model_id>/<client_uuid>.json"),
            "the function",
            "what became of its updates",
        ],
        [
            code(f"{PLANS}<federated_model_id>/<round>-<random>/…"),
            "the function and its workers",
            "the plan of a round that several functions share, until it ends",
        ],
        [
            code(str(credentials_key("<client_uuid>"))),
            "the API, commands and the function",
            "the hash of a client's secret and its models, for the API",
        ],
        [
            code(f"{MASKS}<federated_model_id>/<sha256>/request.json"),
            "the function",
            "a request for the sum of the masks of a round's [masked updates]"
            "(../explanation/secure-aggregation.md)",
        ],
        [
            code(f"{MASKS}<federated_model_id>/<sha256>/answer.json") + ", " + code("sum.u32"),
            "the mask keeper",
            "its answer, and the sum",
        ],
        [
            code(seed_key(3)),
            "the function",
            "the key, itself encrypted, of the seeds of private model 3",
        ],
        [code("artifacts/<federated_model_id>/…"), "the operator", "the initial model"],
    ]


def _formats(max_json_bytes: int) -> list[list[str]]:
    return [
        [
            "safetensors",
            "`safetensors.numpy.save_file`, or the same of any framework",
            "`MAX_UPDATE_BYTES`",
        ],
        [
            "npz",
            "`numpy.savez`; `savez_compressed` is unpacked to disk first",
            "`MAX_UPDATE_BYTES`; unpacked, no larger than the model",
        ],
        [
            "json",
            "`json.dump` of a list of layers, each a nested list of numbers",
            f"{max_json_bytes >> 20} MiB",
        ],
    ]
