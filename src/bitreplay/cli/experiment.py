"""``experiment``: carries a protocol out; what is done is `experiments`', imported when the command runs (extra ``train``)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from .terminal import fail, note, percent, print_table, progress, say

app = typer.Typer()


@app.command()
def experiment(
    protocol: Annotated[
        str, typer.Argument(metavar="PROTOCOL", help="TOML file, or the name of a built-in protocol, such as cifar10-nc5.")
    ],
    data: Annotated[Path, typer.Option("--data", readable=False, help="Folder into which the data set was unpacked.", metavar="DIR")],
    out: Annotated[
        Path,
        typer.Option("--out", readable=False, help="Folder for results.jsonl and what runs share; finished runs are not repeated."),
    ] = Path("bitreplay-runs"),
    weights: Annotated[Path, typer.Option("--weights", readable=False, help="Folder of float weights.", metavar="DIR")] = Path("weights"),
    split: Annotated[str, typer.Option("--split", help="test, or valid: use valid to choose settings, never test.")] = "test",
    only: Annotated[list[str] | None, typer.Option("--only", help="Only runs with this label; may be repeated.", metavar="LABEL")] = None,
    seeds: Annotated[int | None, typer.Option("--seeds", help="Use seeds 0 to N-1 instead of the protocol's.", min=1, metavar="N")] = None,
    workers: Annotated[int, typer.Option("--workers", help="Number of runs at a time, each in its own process.", min=1)] = 1,
    scheduler: Annotated[
        str | None, typer.Option("--scheduler", help="Address of a Dask scheduler, such as tcp://10.0.0.1:8786, instead of --workers.")
    ] = None,
    threads: Annotated[int | None, typer.Option("--threads", help="Threads per worker. Default: cores / workers.", min=1)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the runs and which of them have a result, then stop.")] = False,
) -> None:
    """Run a protocol: every run that has no result yet. Stop it with Ctrl-C at any time; the same command continues."""
    from ..datasets.public import require_folder
    from ..experiments.perform import Place
    from ..experiments.plan import check_runs, plan_runs, split_runs
    from ..experiments.protocol import read_protocol
    from ..experiments.results import NAME
    from ..experiments.schedule import Done, run_all
    from ..training.workbench import TorchWorkbench

    plan = read_protocol(protocol)
    runs = plan_runs(plan, split=split, weights=weights, only=only or (), seeds=None if seeds is None else range(seeds))
    workbench = TorchWorkbench()
    if dry_run:
        check_runs(runs, weights, workbench)
        missing, done, _ = split_runs(runs, out)
        state = {id(run): "to do" for run in missing} | {id(run): "done" for run in done}
        rows = [(run.base.name, run.label, str(run.seed), state.get(id(run), "done, under another label")) for run in runs]
        print_table(f"{plan.name}, {split}", ("base", "label", "seed", "state"), rows)
        say(f"{len(missing)} of {len(runs)} runs to do")
        return
    require_folder(plan.data.set, data)
    with progress() as bar:
        bar(plan.name, 0, len(runs))

        def report(outcome: Done, done: int, total: int) -> None:
            bar(plan.name, done, total)
            title = f"{outcome.run.base.name}, {outcome.run.label}, seed {outcome.run.seed}"
            if outcome.line is None:
                note(f"{title} failed: {outcome.error}")
            else:
                say(f"{done}/{total}  {title}: {percent(outcome.line['final'])} in {outcome.line['seconds_total']:.0f} s")

        try:
            failed = run_all(
                plan,
                runs,
                Place(data, out, weights),
                workbench,
                workers=workers,
                scheduler=scheduler,
                threads=threads,
                command=sys.argv,
                progress=report,
            )
        except KeyboardInterrupt:
            fail(f"interrupted: finished runs are in {out / NAME}; run the same command to continue", 130)
    if failed:
        fail(f"{len(failed)} of {len(runs)} runs failed; the others are in {out / NAME}; run the same command to try them again")
    say(f"{out / NAME}: {len(runs)} of {len(runs)} runs")
