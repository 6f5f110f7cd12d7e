"""Dashboards: what a logger shows besides curves, and how little a run depends on it."""

from vpns_lightning.training.dashboards.artifacts import subnetwork_files
from vpns_lightning.training.dashboards.callback import ShowStage
from vpns_lightning.training.dashboards.facts import Facts, facts_of
from vpns_lightning.training.dashboards.shown import LOGGED_RESULTS, Shown

__all__ = ["LOGGED_RESULTS", "Facts", "ShowStage", "Shown", "facts_of", "subnetwork_files"]
