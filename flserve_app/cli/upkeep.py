"""`flserve verify` and `gc`: whether a store is sound, and what may leave it."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

import typer

from flserve_app.cli.choice import choose_model, choose_store, open_store
from flserve_app.cli.options import MOST_SHOWN, JsonOption, ModelOption, StoreOption, to_json
from flserve_app.cli.tables import print_table
from flserve_app.errors import StoreError
from flserve_app.registry import Collection, Damage, Report, Retention
from flserve_app.registry import collect as collect_store
from flserve_app.registry import verify as verify_store
from flserve_app.registry.layout import is_store
from flserve_app.registry.recovery import Recovered, loss, recover
from flserve_app.text import counted, plain

_NAMED = 8


def verify(
    store: StoreOption = None,
    model: ModelOption = None,
    repair: Annotated[bool, typer.Option("--repair", help="Put back what other payloads can replace.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Make every version from its payloads and check every digest; exits with 1 if anything is damaged.

    With --repair a catalog that was lost is made again from what the payloads say of themselves; the old file is kept.
    """
    place = choose_store(store)
    lost = loss(place) if is_store(place) else None
    recovered = recover(place) if repair and lost is not None else None
    if lost is not None and recovered is None:
        report = Report(findings=(), damage=(), problems=(lost,), payloads=0, nbytes=0, orphans=())
    else:
        with open_store(place) as registry:
            name = None if model is None else choose_model(registry, model)
            report = verify_store(registry, model=name, repair=repair)
    if as_json:
        typer.echo(to_json({**_report(report), "recovered": None if recovered is None else _recovered(recovered)}))
    else:
        if recovered is not None:
            _print_recovered(recovered)
        if report.named:
            typer.echo(f"repair: {report.named} payloads named again")
        _print_report(report)
        if repair and report.damage:
            _print_repair(report)
    if not report.clean:
        raise typer.Exit(1)


def gc(
    store: StoreOption = None,
    keep: Annotated[int | None, typer.Option(min=0, help="Keep the newest N versions of each model.")] = None,
    keep_labelled: Annotated[
        bool, typer.Option("--keep-labelled", help="Keep also what a label of yours ever stood at.")
    ] = False,
    older_than: Annotated[
        float | None, typer.Option(min=0, metavar="DAYS", help="Collect only what is older than this.")
    ] = None,
    forget_clients: Annotated[
        float, typer.Option(min=0, metavar="DAYS", help="Forget clients unseen for longer than this.")
    ] = 30,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Collect versions that no label, live client or rule keeps, and what crashes left behind.

    Without --keep and --older-than no version goes. With both, a version goes if it is beyond the one and older than
    the other. What a label stands at now, and what live clients hold, always stays.
    """
    retention = Retention(
        keep=keep,
        older_than=None if older_than is None else _days(older_than),
        keep_labelled=keep_labelled,
        forget_clients=_days(forget_clients),
    )
    with open_store(store) as registry:
        done = collect_store(registry, retention, dry_run=dry_run)
    if as_json:
        typer.echo(to_json(_collection(done, dry_run)))
    else:
        _print_collection(done, dry_run)


def _days(days: float) -> timedelta:
    try:
        return timedelta(days=days)
    except (OverflowError, ValueError) as error:
        raise StoreError(f"{days} days is no time that can be reckoned with: {error}") from error


def _report(report: Report) -> dict[str, Any]:
    return {
        "clean": report.clean,
        "versions": [
            {
                "model": finding.version.model,
                "version": finding.version.name,
                "digest": finding.version.digest,
                "condition": finding.condition,
                "reason": finding.reason or None,
            }
            for finding in report.findings
        ],
        "damage": [
            {
                "blob": one.blob,
                "what": one.what,
                "reason": one.reason,
                "missing": one.missing,
                "spare": one.spare,
                "repaired": one.repaired,
            }
            for one in report.damage
        ],
        "problems": list(report.problems),
        "payloads": report.payloads,
        "payload_bytes": report.nbytes,
        "orphans": list(report.orphans),
        "named": report.named,
    }


def _print_report(report: Report) -> None:
    lost = [finding for finding in report.findings if finding.condition == "lost"]
    if lost:
        rows = [[one.version.model, one.version.name, one.version.digest[:12], one.reason] for one in lost]
        print_table("lost", ["model", "version", "digest", "reason"], rows)
    if report.damage:
        rows = [[one.blob[:12], one.what, _state_of(one)] for one in report.damage]
        print_table("damaged", ["blob", "what", "state"], rows)
    for problem in report.problems:
        typer.echo(f"problem: {plain(problem, MOST_SHOWN)}")
    counts = {name: sum(one.condition == name for one in report.findings) for name in ("good", "collected", "lost")}
    said = ", ".join(f"{count} {name}" for name, count in counts.items() if count or name == "good")
    orphans = f"; {counted(len(report.orphans), 'orphan blob')} (gc removes them)" if report.orphans else ""
    verdict = "sound" if report.clean else "DAMAGED"
    left = sum(not one.repaired for one in report.damage)
    hurt = f"; {counted(left, 'blob')} damaged or missing" if left else ""
    read = f"{counted(report.payloads, 'payload')}, {report.nbytes:,} bytes read"
    typer.echo(f"{verdict}: versions {said}{hurt}; {read}{orphans}")


def _print_recovered(done: Recovered) -> None:
    made = ", ".join(f"{count} of model {model!r}" for model, count in done.versions.items()) or "none"
    typer.echo(f"recovered: {done.payloads} payloads named again, versions made for them: {made}")
    if done.salvaged:
        rows = ", ".join(f"{table} ({count})" for table, count in done.salvaged.items())
        typer.echo(f"taken over from the old catalog: {rows}")
    if done.versions:
        typer.echo("lost, as no payload tells them: their names, metrics, labels, runs and what serving takes")
    if done.others:
        typer.echo(f"{len(done.others)} blobs are no payloads (states are none); gc removes what nothing names")
    if done.damaged:
        typer.echo(f"{len(done.damaged)} blobs are damaged: {', '.join(blob[:12] for blob in done.damaged[:8])}")
    if done.kept is not None:
        typer.echo(plain(f"the old catalog is kept as {done.kept}", MOST_SHOWN))


def _recovered(done: Recovered) -> dict[str, Any]:
    kept = None if done.kept is None else str(done.kept)
    return {
        "payloads": done.payloads,
        "versions": done.versions,
        "salvaged": done.salvaged,
        "others": list(done.others),
        "damaged": list(done.damaged),
        "kept": kept,
    }


def _state_of(one: Damage) -> str:
    found = "missing" if one.missing else "damaged"
    if one.repaired:
        return f"{found}, put back"
    if one.state:
        return f"{found}: no run can go on from there"
    return f"{found}, but what it makes can be made another way (--repair)" if one.spare else found


def _print_repair(report: Report) -> None:
    done = sum(one.repaired for one in report.damage)
    typer.echo(f"repair: {done} of {len(report.damage)} put back")
    lost = [finding.version for finding in report.findings if finding.condition == "lost"]
    if done < len(report.damage) and lost:
        names = ", ".join(f"{each.name} ({each.digest[:12]})" for each in lost[:_NAMED])
        more = f" and {len(lost) - _NAMED} more" if len(lost) > _NAMED else ""
        typer.echo(
            f"nothing that is left makes {plain(lost[0].model)} {names}{more}: import a bundle that holds "
            f"{'it' if len(lost) == 1 else 'them'} (`flserve export --bundle` where they are whole)"
        )


def _collection(done: Collection, dry_run: bool) -> dict[str, Any]:
    return {
        "dry_run": dry_run,
        "collected": [
            {"model": version.model, "version": version.name, "digest": version.digest} for version in done.versions
        ],
        "kept": done.kept,
        "kept_beyond_the_rule": [
            {"model": version.model, "version": version.name, "reason": reason} for version, reason in done.spared
        ],
        "keyframes": done.keyframes,
        "forgotten_clients": [{"model": model, "identity": identity} for model, identity in done.clients],
        "blobs": done.blobs,
        "bytes": done.nbytes,
        "leftovers": done.leftovers,
    }


def _print_collection(done: Collection, dry_run: bool) -> None:
    would = "would collect" if dry_run else "collected"
    by_model: dict[str, list[str]] = {}
    for version in done.versions:
        by_model.setdefault(version.model, []).append(version.name)
    for model, names in by_model.items():
        shown = " ".join(names) if len(names) <= 8 else f"{' '.join(names[:4])} ... {' '.join(names[-3:])}"
        typer.echo(f"{plain(model)}: {would} {counted(len(names), 'version')}: {shown}")
    if done.clients:
        typer.echo(f"clients {'to forget' if dry_run else 'forgotten'}: {len(done.clients)}")
    if done.spared:
        typer.echo(f"kept beyond the rule: {_reasons(done)}")
    typer.echo(
        f"{would} {len(done.versions)}, kept {done.kept} ({done.keyframes} made to stand alone); "
        f"{counted(done.blobs, 'blob')}, {done.nbytes:,} bytes, {counted(done.leftovers, 'leftover file')}"
    )


def _reasons(done: Collection) -> str:
    """Return why versions stay that the rule lets go."""
    by_reason: dict[tuple[str, str], list[str]] = {}
    for version, reason in done.spared:
        by_reason.setdefault((plain(version.model), reason), []).append(version.name)
    told = (
        (model, " ".join(names[:_NAMED]), " ..." if len(names) > _NAMED else "", why)
        for (model, why), names in by_reason.items()
    )
    return "; ".join(f"{model} {names}{more}, {why}" for model, names, more, why in told)
