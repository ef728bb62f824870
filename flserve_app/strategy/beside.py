"""Further ArrayRecords that go to all clients of a round alike (SCAFFOLD's control variate): versions of their own.

They are published under `<model>.<key>`, and travel relative to what a client was given of them before. Rules:
- A record that is another one for each client travels as it is, and so does one key for ever once it did; and one that
  is small, that no artifact can hold, or whose name is taken in the store.
- A client holds what its node was sent and said it could follow; what is sent again goes as it is. Nothing is relative
  to what another node was sent under the same name: that would tell the one what the other was given.
- Whoever cannot take payloads beside the model's gets the record as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from logging import INFO
from typing import final

from flwr.app import Array, ArrayRecord, RecordDict
from flwr.common.logger import log

from flserve_app.client.beside import MOST_BESIDE, Beside, name_beside, put_beside
from flserve_app.client.records import to_artifact
from flserve_app.client.tensor_array import serialised_bytes
from flserve_app.client.wire import payload_array
from flserve_app.delivery import Step
from flserve_app.delivery.plan import FULL
from flserve_app.errors import Conflict, FlserveError
from flserve_app.fleet import BASIC, BESIDE, TIED, Client
from flserve_app.strategy.parcel import Parcel
from flserve_app.strategy.publisher import Publisher
from flserve_app.text import plain

LEAST_BYTES = 4096  # below that a delivery's own fields are not worth it


@final
class BesideRecords:
    """Publishes the further records of a round, and writes them into messages.

    Args:
        model: Publishes the model that they go with.
    """

    def __init__(self, model: Publisher) -> None:
        self._model = model
        self._lines: dict[str, Publisher] = {}
        self._as_they_are: set[str] = set()
        self._given: dict[tuple[int, str], str] = {}

    def common(self, parcels: Sequence[Parcel], server_round: int) -> Mapping[str, str]:
        """Publish the records that all of these messages carry alike; return their digests by key.

        Args:
            parcels: The messages of one exchange that deliver a model.
            server_round: The round that goes on.
        """
        if not parcels or self._model.codec == FULL:
            return {}
        found: dict[str, str] = {}
        first = parcels[0]
        for key, record in first.content.array_records.items():
            others = [parcel.content.get(key) for parcel in parcels[1:]]
            if key == first.arrays or key in self._as_they_are or len(found) == MOST_BESIDE:
                continue
            if not all(_is_same(record, other) for other in others):
                self._as_they_are.add(key)
            elif (others or key in self._lines) and sum(map(serialised_bytes, record.values())) >= LEAST_BYTES:
                found |= self._published(key, record, server_round)
        return found

    def put(
        self, content: RecordDict, parcel: Parcel, client: Client, shared: dict[tuple[Step, bool], Array]
    ) -> tuple[dict[str, int], Mapping[str, str]]:
        """Write a message's further records; return the bytes of their payloads, and what the client is given.

        Args:
            content: Of the message.
            parcel: What the strategy wrote.
            client: Whom it goes to.
            shared: Arrays of payloads that other messages carry, too.
        """
        if parcel.tries:  # it may have lost what it was given
            self._given = {given: target for given, target in self._given.items() if given[0] != parcel.node_id}
        if parcel.tries or BESIDE not in client.takes:
            return {}, {}
        found: list[Beside] = []
        sizes: dict[str, int] = {}
        for key, target in parcel.beside.items():
            line = self._lines[key]
            held = self._given.get((parcel.node_id, key))
            ties = TIED in client.takes  # who knows none gets other bytes for the same step
            _, payloads = line.deliver(() if held is None else (held,), target, client.takes & {*BASIC, TIED})
            steps = {(step, ties): data for step, data in payloads.items()}
            array = next((shared.setdefault(step, payload_array(data)) for step, data in steps.items()), None)
            found.append(Beside(key=key, target=target, version=line.number_of(target), payload=array))
            sizes[key] = sum(map(len, payloads.values()))
        put_beside(content, found)
        return sizes, {each.key: each.target for each in found}

    def took(self, parcel: Parcel) -> None:
        """Note that a client followed what it was given."""
        for key, target in parcel.given_beside.items():
            self._given[parcel.node_id, key] = target

    def _published(self, key: str, record: ArrayRecord, server_round: int) -> dict[str, str]:
        try:
            line = self._lines[key] = self._lines.get(key) or self._begun(key)
            artifact = to_artifact(record)
            if line.number_of(artifact.digest) < 0 or artifact.digest != line.version.digest:
                line.publish(artifact, server_round)
        except FlserveError as error:
            log(INFO, "flserve: record %s travels as it is: %s", plain(key), plain(error))
            self._as_they_are.add(key)
            return {}
        return {key: artifact.digest}

    def _begun(self, key: str) -> Publisher:
        """Return who publishes a record; it goes on where an earlier run of the model's did. Raises Conflict."""
        registry, name = self._model.registry, name_beside(self._model.model, key)
        registry.leases.check_free(name)
        line = Publisher(registry, name, self._model.codec, self._model.run)
        latest = registry.latest(name)
        if latest is None:
            return line
        if registry.versions(name)[0].created < registry.versions(self._model.model)[0].created:
            raise Conflict(f"model {name!r} is in the store already, and is older than {self._model.model!r}")
        line.adopt(latest, registry.load(latest.digest))
        return line


def _is_same(record: ArrayRecord, other: object) -> bool:
    if record is other:
        return True
    if not isinstance(other, ArrayRecord) or list(record) != list(other):
        return False
    return all(
        array is other[name] or (array.dtype == other[name].dtype and array.data == other[name].data)
        for name, array in record.items()
    )
