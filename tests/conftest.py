"""Small random models in folders, and user folders that never leave the test."""

import os
import shutil

if os.environ.get("PYTEST_XDIST_WORKER"):  # several at a time: each, and what it starts, on one core
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from attribution_pipelines import random_pipeline
from shared_app import (  # noqa: F401
    address,
    ann,
    anns,
    bob,
    boss,
    hosts,
    open_app,
    served,
    shared_folder,
    shared_model,
    trained,
)

from kpop import EraseConfig


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    """Runs and caches of a test go to its own temporary folder, and nothing is fetched."""
    monkeypatch.setenv("KPOP_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("KPOP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """A StableDiffusionPipeline folder: two levels, 8x8 latents, d_c 32, 77 tokens, weights of seed 0."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    random_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def sd_folder(tmp_path_factory):
    """The same in Stable Diffusion 1.4's shape: 4 levels, 8 heads, d_c 768, 77 tokens, 64x64 latents."""
    folder = tmp_path_factory.mktemp("models") / "sd-shaped"
    random_pipeline(sd_shaped=True).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_pipe(tiny_folder):
    """The tiny model, loaded; tests must leave its weights as they are."""
    from kpop import load_pipeline

    return load_pipeline(str(tiny_folder), device="cpu", dtype="fp32")


@pytest.fixture
def tiny_copy(tiny_folder, tmp_path):
    """A copy of the tiny model's folder to damage."""
    return shutil.copytree(tiny_folder, tmp_path / "model")


@pytest.fixture(scope="session")
def tiny_config(tiny_folder):
    """Makes an EraseConfig of the tiny model that trains in seconds; keyword arguments replace fields."""

    def make(**changes):
        fields = {
            "model": str(tiny_folder),
            "concepts": ("church",),
            "retain": ("castle",),
            "steps": 4,
            "batch_size": 2,
            "learning_rate": 1e-3,
            "rollout_steps": 3,
            "checkpoint_every": 2,
            "sample_every": 0,
            "precision": "fp32",
            "negative_guidance": 0,
            "decoy_share": 0,
            "kept_key_share": 0,
            "templates": ("{}", "a {}"),
            "seed": 0,
        }
        return EraseConfig(**{**fields, **changes})

    return make


@pytest.fixture(scope="module")
def chromium():
    """A browser without pages; skipped with a word where there is none."""
    playwright = pytest.importorskip("playwright.sync_api")
    from benchmarks.browser import find_browser

    with playwright.sync_playwright() as tool:
        found = find_browser(tool.chromium)
        if found is None:
            pytest.skip("no chromium here: apt-get install chromium, or playwright install chromium")
        chromium = tool.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield chromium
        chromium.close()
