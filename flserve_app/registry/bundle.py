"""Versions in one file that needs nothing else: out of a store, and into another.

A bundle is a tar (`archive_file`) of `manifest.json` (`contents`) and `blobs/<sha256>`, the payloads in the order
of the manifest. The same versions of a store make the same bytes. Taking one in checks everything first: every
blob's SHA-256, every payload, every artifact's digest and size; a caller who makes the store for it checks before that.
Then the payloads are made durable, and one transaction names them. Numbers stay; what is there already with the same
content stays as it is, with other content it is a conflict, and nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from flserve_app.errors import Conflict, CorruptBlob, NotFound, Overtaken, StoreError
from flserve_app.registry.archive_file import MemberReader, check_members, write_end, write_member
from flserve_app.registry.contents import MAX_MANIFEST_BYTES, Contents, draft_of, to_json
from flserve_app.registry.derive import derive_all
from flserve_app.registry.history import cheapest_chains
from flserve_app.registry.insist import insist
from flserve_app.registry.manifest import from_json
from flserve_app.registry.output import writing_output
from flserve_app.registry.registry import Registry
from flserve_app.store import Edge, Version
from flserve_app.store.bounds import check_tensor_names
from flserve_app.store.names import check_name

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What became of a bundle.

    Attributes:
        model: The model its versions belong to now.
        added: Numbers of the versions that are new here, or whose content had been collected.
        present: Numbers of those that were there already.
    """

    model: str
    added: tuple[int, ...]
    present: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bundle:
    """An open bundle.

    Attributes:
        contents: What it contains, by its manifest.
        reader: Reads it.
        places: Blob to where it is.
    """

    contents: Contents
    reader: MemberReader
    places: Mapping[str, int]

    def payload(self, edge: Edge) -> memoryview:
        """Return one of its payloads. Raises CorruptBlob."""
        data, found = self.reader.view(self.places[edge.blob], edge.nbytes)
        if found != edge.blob:
            raise CorruptBlob(f"its content has SHA-256 {found}")
        return data


def export_bundle(registry: Registry, versions: Iterable[Version], path: Path) -> Contents:
    """Write versions of one model to a file, which is replaced if it is there (see `output`).

    Args:
        registry: The store they are in.
        versions: One or more.
        path: The file; its folder must exist.

    Raises:
        NotFound: If the content of one was collected.
        StoreError: If it cannot be written, none or several models were named, or they are more than a bundle takes.
    """
    chosen = sorted(versions, key=lambda version: version.number)
    return insist(lambda: _export(registry, chosen, path))


def _export(registry: Registry, versions: list[Version], path: Path) -> Contents:
    contents = _contents(registry, versions)
    manifest = to_json(contents)
    from_json(manifest)
    check_members(edge.nbytes for edge in contents.payloads)
    with writing_output(path) as file:
        write_member(file, MANIFEST, manifest)
        for edge in contents.payloads:
            write_member(file, _name(edge), _stored(registry, edge))
        write_end(file)
    return contents


def _stored(registry: Registry, edge: Edge) -> memoryview:
    try:
        return registry.blobs.view(edge.blob, max_bytes=edge.nbytes)
    except NotFound as error:
        if registry.catalog.lacks(edge.blob):
            raise
        raise Overtaken(f"payload {edge.blob} was collected while it was bundled") from error


def import_bundle(registry: Registry, path: Path, *, model: str | None = None) -> Taken:
    """Take the versions of a bundle into a store.

    Args:
        registry: The store.
        path: The bundle.
        model: Name they shall have here; that in the bundle if left out.

    Raises:
        Conflict: If a version of that number has other content here.
        FlserveError: If the bundle is damaged or not as the format says; then nothing was written.
    """
    with opened_bundle(path, model=model) as bundle:
        return take_in(registry, bundle)


@contextmanager
def opened_bundle(path: Path, *, model: str | None = None) -> Iterator[Bundle]:
    """Open a bundle, whose manifest is checked; see `import_bundle`. Raises FlserveError."""
    with MemberReader(path) as reader:
        contents = from_json(reader.first(MANIFEST, MAX_MANIFEST_BYTES))
        places = {edge.blob: reader.skip(_name(edge), edge.nbytes) for edge in contents.payloads}
        reader.check_end()
        if model is not None:
            check_name("a model's name", model)
            drafts = {number: replace(draft, model=model) for number, draft in contents.versions.items()}
            contents = replace(contents, model=model, versions=drafts)
        yield Bundle(contents=contents, reader=reader, places=places)


def check_content(bundle: Bundle) -> None:
    """Check the content of every payload of a bundle. Raises FlserveError if one is damaged."""
    for done in derive_all(bundle.contents.payloads, bundle.payload):
        if done.artifact is None:
            raise CorruptBlob(f"bundle: payload {done.edge.blob} is damaged: {done.error}") from done.error
        check_tensor_names(done.artifact)
        if done.artifact.nbytes != (said := bundle.contents.sizes[done.edge.target]):
            found = f"{done.artifact.nbytes} bytes, its manifest says {said}"
            raise CorruptBlob(f"bundle: artifact {done.edge.target} has {found}")


def take_in(registry: Registry, bundle: Bundle, *, checked: bool = False) -> Taken:
    """Take a bundle's versions into a store; see `import_bundle`.

    Args:
        registry: The store.
        bundle: An open bundle.
        checked: Whether its content was checked.

    Raises:
        Conflict: If a version of the same number has other content.
        FlserveError: If the bundle is damaged; then nothing was written.
    """
    contents = bundle.contents
    present = _present(registry, contents)
    if len(present) < len(contents.versions):
        if not checked:
            check_content(bundle)
        insist(lambda: _admit(registry, bundle))
    added = tuple(number for number in contents.versions if number not in present)
    return Taken(model=contents.model, added=added, present=present)


def _contents(registry: Registry, versions: list[Version]) -> Contents:
    if len({version.model for version in versions}) != 1:
        raise StoreError("a bundle takes one or more versions of one model")
    numbers = {version.number for version in versions}
    digests = [version.digest for version in versions]
    edges, sizes = registry.catalog.made_of(digests)
    chains = cheapest_chains(digests, edges)
    payloads: dict[str, Edge] = {}
    for version in versions:
        if version.digest not in chains:
            registry.archive.check_not_collected(version.digest, f"{version.model} {version.name}")
            raise NotFound(f"{version.model} {version.name} cannot be made from what the store holds")
        for edge in chains[version.digest]:
            payloads.setdefault(edge.target, edge)
    if rowless := [digest for digest in payloads if digest not in sizes]:
        raise StoreError(f"catalog: artifact {rowless[0]} has payloads and no row: it was damaged from outside")
    sizes = {digest: sizes[digest] for digest in payloads}
    drafts = {one.number: draft_of(one, one.parent if one.parent in numbers else None) for one in versions}
    return Contents(model=versions[0].model, versions=drafts, payloads=tuple(payloads.values()), sizes=sizes)


def _present(registry: Registry, contents: Contents) -> tuple[int, ...]:
    """Return the numbers that are there with their content; raises Conflict if one has other content."""
    there = {version.number: version for version in registry.versions(contents.model)}
    for number, draft in contents.versions.items():
        if number in there and there[number].digest != draft.digest:
            raise Conflict(
                f"{contents.model} v{number} is in the store with content {there[number].digest[:12]}, the bundle has "
                f"{draft.digest[:12]}: import it under another name with --model"
            )
    return tuple(number for number in contents.versions if number in there and there[number].collected is None)


def _admit(registry: Registry, bundle: Bundle) -> None:
    contents = bundle.contents
    registry.catalog.announce(contents.model)
    for edge in contents.payloads:
        if not registry.catalog.edges_behind(edge.target):
            registry.blobs.put(bundle.payload(edge))
    registry.catalog.admit(contents.model, contents.versions, contents.payloads, contents.sizes, now=registry.clock())


def _name(edge: Edge) -> str:
    return f"blobs/{edge.blob}"
