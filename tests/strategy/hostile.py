"""Replies that a client should not give, as a table: add a row, and it is thrown at every strategy.

A row changes one honest reply in place: a Message with an ArrayRecord `arrays` of w, b, n and a MetricRecord `metrics`.
What is expected of a round with it:
- `meant` is None: it is as if the client had not answered;
- else as if the client had given the honest reply that `meant` makes (by default the one it began with).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

ESC = "\x1b]0;owned\x07\x1b[2J\x9b31m \u202etxet\n[ROUND 99/99]"

Change = Callable[[Message], Message | None]


def honest(message):
    return None


@dataclass(frozen=True)
class Hostile:
    """One row.

    Attributes:
        name: What is odd.
        change: Changes a reply in place; may return another one.
        meant: As in the module's text.
        reads: A metric that is odd: where a strategy reads it, the reply is left out.
        mod_refuses: Whether the mod cannot send it, so that it is left out under it.
        whole: Whether it is the message that is odd, so that no app can give it from under a mod.
    """

    name: str
    change: Change
    meant: Change | None = honest
    reads: str = ""
    mod_refuses: bool = False
    whole: bool = False


# What rows are made of.


def arrays(**changed):
    """Put other Arrays or values under tensors' names; None takes one away."""

    def change(message):
        kept = {**message.content["arrays"], **changed}
        message.content["arrays"] = record({name: value for name, value in kept.items() if value is not None})

    return change


def each(**functions):
    """Put functions of tensors' values in their place."""

    def change(message):
        found = message.content["arrays"]
        made = {name: function(found[name].numpy()) for name, function in functions.items()}
        message.content["arrays"] = record({**found, **made})

    return change


def record(values):
    filled = ArrayRecord()
    for name, value in values.items():
        filled[name] = value if isinstance(value, Array) else Array(np.asarray(value))
    return filled


def metrics(**changed):
    """Put other values under metrics' names (with _ for -); None takes one away."""

    def change(message):
        named = {("num-examples" if name == "weight" else name): value for name, value in changed.items()}
        kept = {**message.content["metrics"], **named}
        message.content["metrics"] = MetricRecord({name: value for name, value in kept.items() if value is not None})

    return change


def many_metrics(count, name="m%d"):
    return metrics(**{name % at: float(at) for at in range(count)})


def keys(**renamed):
    """Put records under other keys."""

    def change(message):
        content = dict(message.content)
        for old in renamed:
            content.pop(old)
        message.content = RecordDict({**content, **{new: message.content[old] for old, new in renamed.items()}})

    return change


def beside(**records):
    """Add records; None takes one away."""

    def change(message):
        content = {**message.content, **{name.replace("__", "."): value for name, value in records.items()}}
        message.content = RecordDict({name: value for name, value in content.items() if value is not None})

    return change


def stream(dtype="float32", shape=(3, 2), data=b"", stype="numpy.ndarray"):
    return Array(dtype, shape, stype, data)


def saved(values, version=None):
    """Return an Array with the stream that numpy writes of values."""
    buffer = BytesIO()
    np.lib.format.write_array(buffer, values, version, allow_pickle=True)
    return Array(str(values.dtype), tuple(values.shape), "numpy.ndarray", buffer.getvalue())


def headed(header, data=bytes(24), version=(1, 0)):
    """Return an Array whose stream has this header."""
    text = header.encode("latin-1")
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    size = 2 if version == (1, 0) else 4
    return stream(data=b"\x93NUMPY" + bytes(version) + len(text).to_bytes(size, "little") + text + data)


def head(descr="'<f4'", order="False", shape="(3, 2)"):
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"


def patched(**attributes):
    """Let w say something else of itself than its stream holds."""

    def change(message):
        found = message.content["arrays"]
        w = Array(found["w"].numpy())
        w.__dict__.update(attributes)
        message.content["arrays"] = record({**found, "w": w})

    return change


def rewritten(function):
    """Let w's stream be another one."""
    return lambda message: arrays(w=stream(data=function(message.content["arrays"]["w"].data)))(message)


def refused(reason):
    def change(message):
        message.__dict__.update(_content=None, _error=Error(code=2, reason=reason))

    return change


def without_content(message):
    message.__dict__["_content"] = None


def of_another_type(message):
    message.metadata.__dict__["_message_type"] = "query"


def reordered(message):
    message.content["arrays"] = record(dict(reversed(message.content["arrays"].items())))


def swapped(message):
    message.content = RecordDict({"arrays": message.content["metrics"], "metrics": message.content["arrays"]})


def empty(message):
    message.content = RecordDict()


def crowded(message):
    """65,536 tensors, all of one Array: only the server is to work for it."""
    found = message.content["arrays"]
    nothing = Array(np.zeros(0, np.float32))
    message.content["arrays"] = record({**found, **{f"t{at}": nothing for at in range(1 << 16)}})


OUT = None
F4 = np.float32

RECORDS = (
    Hostile("nothing odd", honest),
    Hostile("arrays under another key", keys(arrays="weights")),
    Hostile("arrays under a key with escapes", keys(arrays=ESC)),
    Hostile("arrays under an empty key", keys(arrays=""), mod_refuses=True),
    Hostile("metrics under another key", keys(metrics="numbers")),
    Hostile("metrics under a key that sorts first", keys(metrics="!")),
    Hostile("all under other keys", keys(metrics="x", arrays="y")),
    Hostile("arrays and metrics under each other's key", swapped),
    Hostile("two ArrayRecords", beside(more=record({"w": np.zeros((3, 2), F4)})), OUT),
    Hostile("an empty ArrayRecord beside", beside(more=ArrayRecord()), OUT),
    Hostile("two MetricRecords", beside(more=MetricRecord({"num-examples": 9})), OUT),
    Hostile("no ArrayRecord", beside(arrays=None), OUT),
    Hostile("no MetricRecord", beside(metrics=None), OUT),
    Hostile("an empty ArrayRecord", beside(arrays=ArrayRecord()), OUT),
    Hostile("an empty MetricRecord", beside(metrics=MetricRecord()), OUT),
    Hostile("nothing at all", empty, OUT),
    Hostile("a config beside", beside(config=ConfigRecord({ESC: ESC, "x": b"\0" * 99, "l": [1, 2]}))),
    Hostile("a config under the arrays' key", lambda m: (keys(arrays="w")(m), beside(arrays=ConfigRecord())(m))[0]),
    Hostile("a hundred records", beside(**{f"r{at}": ConfigRecord() for at in range(100)}), OUT),
    Hostile("ten thousand settings", beside(c=ConfigRecord({f"{at}": at for at in range(10_000)})), OUT),
)
DTYPES = (
    Hostile("float64, the same values", each(w=lambda w: w.astype("f8"))),
    Hostile("float16", each(w=lambda w: w.astype("f2")), each(w=lambda w: w.astype("f2").astype("f4"))),
    Hostile("long double", each(w=lambda w: w.astype(np.longdouble))),
    Hostile("big-endian", each(w=lambda w: w.astype(">f4"), n=lambda n: n.astype(">i8"))),
    Hostile("by columns", each(w=np.asfortranarray)),
    Hostile("complex", each(w=lambda w: w.astype("c8")), OUT),
    Hostile("complex128 for all", each(w=lambda w: w.astype("c16"), b=lambda b: b * 1j), OUT),
    Hostile("a complex counter", each(n=lambda n: n.astype("c16")), OUT),
    Hostile("int32 for floats", each(w=lambda w: (9 * w).astype("i4")), OUT),
    Hostile("uint8 for floats", each(b=lambda b: (9 * b).astype("u1")), OUT),
    Hostile("booleans for floats", each(w=lambda w: w > 0), OUT),
    Hostile("text", each(w=lambda w: w.astype("U9")), OUT),
    Hostile("bytes", each(w=lambda w: w.astype("S9")), OUT),
    Hostile("dates", each(w=lambda w: w.astype("i8").astype("M8[s]")), OUT),
    Hostile("nothing of a type", arrays(w=saved(np.zeros((3, 2), "V4"))), OUT),
    Hostile("structures", arrays(w=saved(np.zeros((3, 2), [("a", "<f4"), ("b", "<i8")]))), OUT),
    Hostile("objects", arrays(w=saved(np.full((3, 2), None, object))), OUT),
    Hostile("a counter of 32 bits", each(n=lambda n: n.astype("i4"))),
    Hostile("a counter without a sign", each(n=lambda n: n.astype("u8"))),
    Hostile("a counter in float64", each(n=lambda n: n.astype("f8"))),
    Hostile("a counter in float16", each(n=lambda n: n.astype("f2"))),
    Hostile("a counter with a fraction", each(n=lambda n: n + 0.5), OUT),
    Hostile("a counter that is NaN", arrays(n=np.nan), OUT),
    Hostile("a counter that is infinite", arrays(n=-np.inf), OUT),
    Hostile("a counter of 1e300", arrays(n=1e300), OUT),
    Hostile("a counter of 2**63", arrays(n=2.0**63), OUT),
    Hostile("a counter of 2**64 - 1", arrays(n=np.uint64(2**64 - 1)), OUT),
    Hostile("a counter that is text", arrays(n=np.asarray("3")), OUT),
    Hostile("floats out of float32", each(w=lambda w: w + np.float64(1e300)), OUT),
    Hostile("NaN", each(w=lambda w: w * F4(np.nan)), OUT),
    Hostile("one infinity", each(b=lambda b: np.append(b[1:], F4(np.inf))), OUT),
    Hostile("minus infinity in float64", each(b=lambda b: np.append(b[1:], -np.inf)), OUT),
)
SHAPES = (
    Hostile("turned", each(w=np.transpose), OUT),
    Hostile("flat", each(w=np.ravel), OUT),
    Hostile("one dimension more", each(w=lambda w: w[None]), OUT),
    Hostile("a counter of one number", each(n=lambda n: n[None]), OUT),
    Hostile("a number for a tensor", arrays(w=F4(1)), OUT),
    Hostile("an empty tensor", arrays(w=np.zeros((0, 2), F4)), OUT),
    Hostile("an empty one of a huge shape", arrays(w=headed(head(shape="(0, 9223372036854775807)"), b"")), OUT),
    Hostile("more rows", each(w=lambda w: np.repeat(w, 2, axis=0)), OUT),
)
METADATA = (
    Hostile("says int64", patched(dtype="int64")),
    Hostile("says complex", patched(dtype="complex128")),
    Hostile("says escapes", patched(dtype=ESC)),
    Hostile("says object", patched(dtype="O")),
    Hostile("says another shape", patched(shape=(999, 999))),
    Hostile("says a negative shape", patched(shape=(-1, 2**70))),
    Hostile("says nothing", patched(dtype="", shape=())),
    Hostile("serialised as torch", patched(stype="torch.Tensor"), OUT),
    Hostile("serialised as a payload", patched(stype="flserve.payload"), OUT),
    Hostile("serialised as escapes", patched(stype=ESC), OUT),
)
HEADERS = (
    *(Hostile(f"npy version {at}.0", each(w=lambda w, at=at: saved(w, (at, 0)))) for at in (1, 2, 3)),
    Hostile("npy version 9.9", rewritten(lambda data: data[:6] + b"\x09\x09" + data[8:]), OUT),
    Hostile("no stream", arrays(w=stream(data=b"")), OUT),
    Hostile("only the magic", arrays(w=stream(data=b"\x93NUMPY")), OUT),
    Hostile("half of the version", arrays(w=stream(data=b"\x93NUMPY\x01")), OUT),
    Hostile("a pickle", arrays(w=stream(data=b"\x80\x04K\x01.")), OUT),
    Hostile("cut off", rewritten(lambda data: data[:-1]), OUT),
    Hostile("cut in the header", rewritten(lambda data: data[:40]), OUT),
    Hostile("with a byte behind", rewritten(lambda data: data + b"\0"), OUT),
    Hostile("with a tensor behind", rewritten(lambda data: 2 * data), OUT),
    Hostile("9000 minus signs", arrays(w=headed(head(shape=f"({'-' * 9000}1,)"))), OUT),
    Hostile("3000 minus signs", arrays(w=headed(head(shape=f"({'-' * 3000}1,)"))), OUT),
    Hostile("2000 brackets", arrays(w=headed(head(shape="(" * 2000 + ")" * 2000))), OUT),
    Hostile("3000 brackets, one kind", arrays(w=headed("{" * 3000)), OUT),
    Hostile("60,000 brackets", arrays(w=headed("[" * 60_000)), OUT),
    Hostile("a million brackets", arrays(w=headed("[" * 1_000_000, version=(2, 0))), OUT),
    Hostile("a header of 4 GB", arrays(w=stream(data=b"\x93NUMPY\x02\x00" + b"\xff" * 64)), OUT),
    Hostile("a number of 3000 digits", arrays(w=headed(head(shape=f"({'9' * 3000},)"))), OUT),
    Hostile("a negative dimension", arrays(w=headed(head(shape="(-1, 2)"))), OUT),
    Hostile("two negative dimensions", arrays(w=headed(head(shape="(-3, -2)"))), OUT),
    Hostile("a huge dimension", arrays(w=headed(head(shape="(9223372036854775807, 2)"))), OUT),
    Hostile("a product that overflows", arrays(w=headed(head(shape="(4294967296, 4294967296, 6)"))), OUT),
    Hostile("hundred dimensions", arrays(w=headed(head(shape=f"({'1,' * 100})"), bytes(4))), OUT),
    Hostile("a shape that is a list", arrays(w=headed(head(shape="[3, 2]"))), OUT),
    Hostile("a shape that is a number", arrays(w=headed(head(shape="6"))), OUT),
    Hostile("a shape of floats", arrays(w=headed(head(shape="(3., 2)"))), OUT),
    Hostile("a shape of booleans", arrays(w=headed(head(shape="(True, 2)"))), OUT),
    Hostile("a shape that is computed", arrays(w=headed(head(shape="(1+2, 2)"))), OUT),
    Hostile("an order that is text", arrays(w=headed(head(order="'no'"))), OUT),
    Hostile("an order that is a number", arrays(w=headed(head(order="0"))), OUT),
    Hostile("a type that is a list", arrays(w=headed(head(descr="[('a', '<f4')]"))), OUT),
    Hostile("a type that is a tuple", arrays(w=headed(head(descr="('<f4', (3, 2))"))), OUT),
    Hostile("a type that nests", arrays(w=headed(head(descr="[('a', " * 300 + "'<f4'" + ")]" * 300))), OUT),
    Hostile("a type of no size", arrays(w=headed(head(descr="'|S0'"))), OUT),
    Hostile("a type of a huge size", arrays(w=headed(head(descr="'<U999999999'"))), OUT),
    Hostile("a type that is no type", arrays(w=headed(head(descr="'<f3'"))), OUT),
    Hostile("a type of several", arrays(w=headed(head(descr="'f4,f4'"))), OUT),
    Hostile("a further key", arrays(w=headed(head()[:-2] + "'x': 1, }")), OUT),
    Hostile("a key twice", arrays(w=headed(head()[:-2] + "'descr': '<f4', }")), OUT),
    Hostile("a key less", arrays(w=headed("{'descr': '<f4', 'shape': (3, 2)}")), OUT),
    Hostile("no dictionary", arrays(w=headed("('<f4', False, (3, 2))")), OUT),
    Hostile("a comprehension", arrays(w=headed("{k: 0 for k in 'abc'}")), OUT),
    Hostile("no ASCII", arrays(w=headed(head(descr="'\xe9'"))), OUT),
    Hostile("zero bytes", arrays(w=headed("\0" * 500)), OUT),
)
NUMBERS = (
    *(
        Hostile(f"a weight of {value!r}", metrics(weight=value), OUT)
        for value in (np.nan, np.inf, -np.inf, -1, -1e-9, 1e308, 2**63 - 1, -(2**63), 2.0**41, [1, 2], [], None)
    ),
    Hostile("a weight in float64", metrics(weight=np.float64(10.0)), metrics(weight=10.0)),
    Hostile("a tiny weight", metrics(weight=5e-324), metrics(weight=5e-324)),
    Hostile("a weight of 2**40", metrics(weight=2**40), metrics(weight=2**40)),
    *(
        Hostile(f"a loss of {value!r}", metrics(train_loss=value), reads="train_loss")
        for value in (np.nan, np.inf, -1.0, 1e308, 2**62, [0.5], None)
    ),
    *(Hostile(f"a norm bit of {value!r}", metrics(norm_bit=value), reads="norm_bit") for value in (np.nan, [1], None)),
)
METRICS = (
    Hostile("a metric more", metrics(extra=1.0)),
    Hostile("a metric less", metrics(accuracy=None)),
    Hostile("only the weight", metrics(accuracy=None, train_loss=None, norm_bit=None), reads="train_loss norm_bit"),
    Hostile("a list for a number", metrics(accuracy=[0.5, 0.5])),
    Hostile("an empty list", metrics(accuracy=[])),
    Hostile("a list of NaN", metrics(accuracy=[np.nan] * 3)),
    Hostile("a list of 100,000", metrics(extra=[0.0] * 100_000)),
    Hostile("a NaN metric", metrics(accuracy=np.nan)),
    Hostile("an infinite metric", metrics(accuracy=-np.inf)),
    Hostile("a metric of 1e308", metrics(accuracy=1e308)),
    Hostile("a metric of 2**63 - 1", metrics(accuracy=2**63 - 1)),
    Hostile("a metric of 400 digits", metrics(accuracy=10**400), OUT),
    Hostile("names with escapes", many_metrics(9, ESC + "%d")),
    Hostile("a name of 100,000", metrics(**{"x" * 100_000: 1.0})),
    Hostile("an empty name", metrics(**{"": 1.0})),
    Hostile("lone surrogates", metrics(**{"\ud800": 1.0}), OUT),
    Hostile("a thousand metrics", many_metrics(1000)),
    Hostile("five thousand metrics", many_metrics(5000), OUT),
)
NAMES = (
    Hostile("a tensor less", arrays(n=None), OUT),
    Hostile("a tensor renamed", arrays(w=None, W=np.zeros((3, 2), F4)), OUT),
    Hostile("a tensor more", arrays(more=np.zeros(2, F4))),
    Hostile("a tensor with escapes more", arrays(**{ESC: np.zeros(2, F4)})),
    Hostile("a tensor without a name more", arrays(**{"": np.zeros(2, F4)})),
    Hostile("a malformed tensor more", arrays(more=headed("[" * 60_000))),
    Hostile("thirty tensors more", arrays(**{f"t{at}": np.zeros(2, F4) for at in range(30)})),
    Hostile("in another order", reordered),
    Hostile("65,536 tensors", crowded, OUT, whole=True),
    Hostile("17 MB more", arrays(more=np.zeros(17 << 20, np.uint8)), OUT),
)
MESSAGES = (
    Hostile("no answer", lambda message: message.__dict__.update(_content=None, _error=Error(0, "lost")), OUT),
    Hostile("no content and no error", without_content, OUT, whole=True),
    Hostile("of another type", of_another_type, whole=True),
    Hostile("an error with escapes", refused(ESC), OUT),
    Hostile("an error without a reason", refused(""), OUT),
    Hostile("an error of a megabyte", refused("x\n" * 500_000), OUT),
    Hostile("a record for the answer", beside(flserve=MetricRecord({"protocol": 1})), OUT, whole=True),
    Hostile("arrays for the answer", beside(flserve=ArrayRecord()), OUT, whole=True),
    Hostile("an empty answer", beside(flserve=ConfigRecord()), OUT, whole=True),
    Hostile("another protocol", beside(flserve=ConfigRecord({"protocol": 2**62})), OUT, whole=True),
    Hostile("metrics for a payload", beside(flserve__payload=MetricRecord({"payload": 1})), whole=True),
)

TABLE = (*RECORDS, *DTYPES, *SHAPES, *METADATA, *HEADERS, *NUMBERS, *METRICS, *NAMES, *MESSAGES)
# What an evaluation can be odd in: it has no arrays.
EVALUATIONS = tuple(
    row
    for row in (*RECORDS, *NUMBERS, *METRICS, *MESSAGES)
    if "rray" not in row.name and row.name != "all under other keys"
)
