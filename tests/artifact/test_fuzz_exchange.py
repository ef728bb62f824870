"""safetensors and npz files of others: errors of ours only, and little memory."""

import contextlib
import io
import json
import random
import struct
import zipfile

import numpy as np

from flserve_app.artifact import Artifact
from flserve_app.artifact.exchange import from_npz, from_safetensors, to_npz, to_safetensors
from flserve_app.errors import FlserveError
from tests.foreign import NASTY, changed_bytes, changed_text, fuzz, seeds

GOOD = Artifact(
    {"w": np.arange(6, dtype="f4").reshape(2, 3), "n": np.array(3), "h": np.zeros(4, "u2"), "e": np.zeros((0, 2))},
    dtypes={"h": "bfloat16"},
)
_HEADERS = (
    "{'descr': '<f4', 'fortran_order': False, 'shape': (%s,), }",
    "{'descr': '%s', 'fortran_order': False, 'shape': (2, 3), }",
    "{'descr': '<f4', 'fortran_order': %s, 'shape': (2, 3), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': %s, }",
    "{'descr': [('a', '<f4', %s)], 'fortran_order': False, 'shape': (2,), }",
    "%s",
)
_ODD = (
    "-1", "10**9", "2**70", "9" * 5000, "True", "'x'", "(" * 300, "[" * 90000 + "]" * 90000, "-" * 9000 + "1", "()",
    "(0, 9223372036854775807, 9223372036854775807)", "|O", "<U9", "<M8[s]", "f8,f8", "<f99", "V0", "1e999", "\\x1b[2J",
    "{}", "None", "lambda: 0", "(2, 3" + ", 1" * 100 + ")", "\0",
)  # fmt: skip


def refused_or_read(read, data):
    with contextlib.suppress(FlserveError):
        read(data)


@fuzz
@seeds
def test_safetensors_headers(seed):
    data = to_safetensors(GOOD)
    size = struct.unpack_from("<Q", data)[0]
    stream = random.Random(seed)
    head = changed_text(json.loads(data[8 : 8 + size]), stream)
    refused_or_read(from_safetensors, struct.pack("<Q", len(head)) + head + data[8 + size :])
    refused_or_read(from_safetensors, changed_bytes(data, stream))


@fuzz
@seeds
def test_npz_bytes(seed):
    stream = random.Random(seed)
    refused_or_read(from_npz, changed_bytes(to_npz(GOOD), stream))
    refused_or_read(from_npz, stream.randbytes(stream.randrange(300)))


@fuzz
@seeds
def test_npz_members(seed):
    stream = random.Random(seed)
    with zipfile.ZipFile(io.BytesIO(to_npz(GOOD))) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = stream.choice(list(members))
    match stream.randrange(4):
        case 0:
            members[name] = changed_bytes(members[name], stream)
        case 1:
            members["flserve.json"] = changed_text({"dtypes": {"h": "bfloat16"}}, stream)
        case 2:
            members[str(stream.choice(NASTY)).replace("\ud800", "x")] = members.pop(name)
        case _:
            template = stream.choice(_HEADERS)
            text = (template % stream.choice(_ODD) if stream.random() < 0.9 else template).encode() + b"\n"
            version = stream.choice((b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\x00\x00"))
            length = struct.pack("<H", len(text) % 65536) if version[0] == 1 else struct.pack("<I", len(text))
            members["w.npy"] = b"\x93NUMPY" + version + length + text + members["w.npy"][-24:]
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", stream.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for each, member in members.items():
            archive.writestr(zipfile.ZipInfo(each), member)
    refused_or_read(from_npz, content.getvalue())
