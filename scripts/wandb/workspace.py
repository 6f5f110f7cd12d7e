"""Make the saved view of a W&B project: accuracy by method, curves, costs, pictures.

    pip install wandb-workspaces
    python scripts/wandb/workspace.py ENTITY PROJECT            # needs a key; prints the address
    python scripts/wandb/workspace.py ENTITY PROJECT --group fig4_cifar100

A view is kept by W&B's server: without one this script can build it, but nobody can look at it.
"""

import argparse

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws

NAME = "VPNs: accuracy against sparsity"
ACCURACY = wr.SummaryMetric("test_accuracy")


def workspace(entity: str, project: str, group: str | None = None) -> ws.Workspace:
    """Return the view, not saved yet.

    Args:
        entity: User or team.
        project: Of the runs.
        group: Show the runs of one grid, or of one run folder.
    """
    filters = [ws.Metric("JobType") == "tune"]
    if group is not None:
        filters.append(ws.Metric("Group") == group)
    return ws.Workspace(
        entity=entity,
        project=project,
        name=NAME,
        auto_generate_panels=False,
        settings=ws.WorkspaceSettings(x_axis="epoch", max_runs=100, group_by_prefix="first"),
        runset_settings=ws.RunsetSettings(
            filters=filters,
            groupby=[ws.Config(key) for key in ("dataset", "method", "sparsity_requested")],
            order=[ws.Ordering(ws.Summary("test_accuracy"), ascending=False)],
            pinned_columns=[
                *("run:displayName", "config:dataset", "config:method", "config:seed"),
                *("config:sparsity_requested", "summary:test_accuracy", "summary:gradient_steps"),
            ],
        ),
        sections=[_results(), _curves(), _pictures()],
    )


def _results() -> ws.Section:
    panels = [
        wr.ScatterPlot(
            title="accuracy against sparsity", x=wr.SummaryMetric("sparsity"), y=ACCURACY
        ),
        wr.BarPlot(
            title="accuracy by method, mean and standard deviation over seeds",
            metrics=[ACCURACY],
            groupby=wr.Config("method"),
            groupby_aggfunc="mean",
            groupby_rangefunc="stddev",
        ),
        wr.ScatterPlot(
            title="cost against accuracy", x=wr.SummaryMetric("gradient_steps"), y=ACCURACY
        ),
    ]
    return ws.Section(name="results", panels=panels, is_open=True, pinned=True)


def _curves() -> ws.Section:
    shown = ("tune/acc", "tune/loss", "tune/prompt_norm")
    panels = [
        wr.LinePlot(
            title=metric,
            x="epoch",
            y=[metric],
            groupby=wr.Config("method"),
            groupby_aggfunc="mean",
            groupby_rangefunc="stddev",
        )
        for metric in shown
    ]
    return ws.Section(name="curves by method", panels=panels, is_open=True)


def _pictures() -> ws.Section:
    keys = ["summary", "tune/prompt", "tune/examples"]
    browsers = [wr.MediaBrowser(title=key, media_keys=[key]) for key in keys]
    return ws.Section(name="pictures", panels=browsers)


def main() -> None:
    """Save the view."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("entity", help="user or team")
    parser.add_argument("project")
    parser.add_argument("--group", help="the runs of one grid alone, or of one run folder")
    given = parser.parse_args()
    view = workspace(given.entity, given.project, given.group)
    view.save()
    print(view.url)


if __name__ == "__main__":
    main()
