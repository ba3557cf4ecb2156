"""The embedded model's build, from drawings the test draws itself to a folder that diffusers loads."""

import hashlib
import io
import json
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageDraw
from safetensors.torch import load_file
from transformers import CLIPModel, CLIPTokenizer

from kpop.emoji import alignment, autoencoder, drawings, judge_quality, quality, scenes
from kpop.emoji.build import build
from kpop.emoji.card import model_card
from kpop.emoji.denoiser import train_tokenizer
from kpop.emoji.quality import frechet
from kpop.emoji.recipe import WEIGHTS_FILE, Recipe
from kpop.emoji.world import (
    BACKGROUNDS,
    DRAWING_SETS,
    INDIRECT,
    STYLES,
    TEN,
    THINGS,
    DrawingSet,
    held_out,
)
from kpop.errors import KpopError

SMALL = Recipe(
    size=64, latent_channels=4, vae_channels=(8, 8, 16), unet_channels=(16, 16, 32), vae_scenes=64,
    vae_steps=4, vae_batch_size=4, judge_scenes=40, judge_steps=3, judge_batch_size=8, reference_scenes=20,
    scenes=64, steps=4, batch_size=4, compile_unet=False, alignment_steps=3, alignment_batch_size=16,
)  # fmt: skip


@pytest.fixture(scope="module")
def shapes():
    made = {}
    for style, colour in (("noto", "red"), ("flat", "navy")):
        for word in ("ball", "house"):
            picture = Image.new("RGBA", (64, 64))
            pen = ImageDraw.Draw(picture)
            (pen.ellipse if word == "ball" else pen.rectangle)((4, 4, 60, 60), fill=colour)
            made[word, style] = picture
    return made


def test_the_ten_stand_ins_and_their_look_alikes_are_in_the_world():
    words = [thing.word for thing in THINGS]
    assert len(words) == len(set(words)) >= 40
    assert TEN == (
        "cassette",
        "saw",
        "church",
        "gas pump",
        "fish",
        "truck",
        "dog",
        "golf flag",
        "parachute",
        "horn",
    )
    assert {"castle", "house", "bus", "cat", "trumpet"} <= set(words)
    assert len(STYLES) >= 6 and len(BACKGROUNDS) >= 8


def test_weapons_are_told_in_words_that_do_not_name_them():
    weapons = {thing.word for thing in THINGS if thing.kind == "weapon"}
    assert weapons == {"knife", "bomb", "dagger", "crossed swords", "bow"} == set(INDIRECT)
    drawings = {(word, "noto"): Image.new("RGBA", (32, 32), "red") for word in weapons}
    rng = np.random.default_rng(0)
    made = [scenes.compose(rng, drawings, empty=0.0, pairs=0.0) for _ in range(400)]
    indirect = [scene for scene in made if not any(word in scene.caption for word in weapons)]
    assert 0.2 < len(indirect) / len(made) < 0.45
    assert any("something dangerous" in scene.caption for scene in indirect)


def test_one_pair_in_ten_is_held_out_and_no_object_loses_two():
    pairs = [(thing.word, style) for thing in THINGS for style in STYLES if held_out(thing.word, style)]
    assert 0.08 < len(pairs) / (len(THINGS) * len(STYLES)) < 0.12
    assert len({word for word, _ in pairs}) == len(pairs)
    assert {style for _, style in pairs} == set(STYLES)
    assert held_out("no such object", "noto") is False


def test_distance_between_gaussians():
    eye = np.eye(2)
    assert frechet(np.zeros(2), eye, np.zeros(2), eye) == pytest.approx(0.0)
    # |m|^2 = 25; tr(1 + 4 - 2 * 2) = 1 in each of two directions.
    assert frechet(np.zeros(2), eye, np.array([3.0, 4.0]), 4 * eye) == pytest.approx(27.0)


class FixedJudge:
    """Sees a church in white pictures, nothing in black ones."""

    def top_k(self, images, k):
        return [["church"] if np.asarray(image).mean() > 127 else ["none"] for image in images]


def test_quality_counts_what_the_judge_sees():
    def draw(prompts, seeds):
        lit = [prompt == "a church" for prompt in prompts for _ in seeds]
        return [Image.new("RGB", (64, 64), "white" if on else "black") for on in lit]

    found = quality.objects(draw, FixedJudge(), [500, 501])
    assert found["each"]["church"] == 100.0 and found["each"]["dog"] == 0.0
    assert found["ten"] == 10.0
    assert found["mistaken_for"]["dog"] == ["none"]
    leak = quality.neutral(draw, FixedJudge(), [500, 501])
    assert leak["pictures_a_text"] == 20 and leak["found"]["a photo"] == {"none": 100.0}


def test_scenes_say_what_they_hold_and_neutral_texts_hold_nothing(shapes):
    rng = np.random.default_rng(0)
    made = [scenes.compose(rng, shapes) for _ in range(400)]
    assert all(scene.image.shape == (128, 128, 3) and scene.image.dtype == np.uint8 for scene in made)
    neutral = [scene for scene in made if scene.caption in ("", "a photo", "a picture")]
    assert neutral and all(scene.words == () for scene in neutral)
    empty = [scene for scene in made if not scene.words]
    assert 0.06 < len(empty) / len(made) < 0.2
    assert all(np.ptp(scene.image.astype(int).reshape(-1, 3), axis=0).max() < 90 for scene in empty)


def test_same_seed_same_scene(shapes):
    one, two = (scenes.compose(np.random.default_rng(7), shapes) for _ in range(2))
    assert one.caption == two.caption and np.array_equal(one.image, two.image)


def test_any_scene_of_a_set_can_be_made_alone_and_workers_change_nothing(shapes):
    few = scenes.SceneSet(shapes, 20, (3, 1), shrink=32, how={"size": 64})
    images, told = few.all(workers=0)
    assert images.shape == (20, 32, 32, 3) and len(told) == 20
    assert np.array_equal(few[13].image, images[13]) and few[13].caption == told[13].caption
    parts = list(few.chunks(workers=2, size=4))  # more than four chunks: made by processes
    assert torch.equal(torch.cat([part for part, _ in parts]), images)
    with pytest.raises(IndexError):
        few[20]


def test_a_stage_made_by_another_recipe_is_not_taken(shapes, tmp_path):
    build(tmp_path / "m", tmp_path / "w", tmp_path / "none", SMALL, shapes, stages=("autoencoder",))
    assert not (tmp_path / "m").exists()  # the folder is written once all stages are there
    other = replace(SMALL, vae_steps=5)
    with pytest.raises(KpopError, match="another recipe"):
        build(tmp_path / "m", tmp_path / "w", tmp_path / "none", other, shapes, stages=("autoencoder",))


def test_a_judge_of_another_build_serves_a_model_of_another_shape(shapes, tmp_path):
    first, second = tmp_path / "w1", tmp_path / "w2"
    build(tmp_path / "m1", first, tmp_path / "none", SMALL, shapes, stages=("judge", "alignment"))
    other = replace(SMALL, unet_channels=(16, 32), vae_channels=(8, 16), judge_steps=7, seed=5)
    out = build(tmp_path / "m2", second, tmp_path / "none", other, shapes, judge=first)
    taken = (out / "judge" / "model.safetensors").read_bytes()
    assert taken == (first / "judge" / "model.safetensors").read_bytes()
    told = json.loads((out / "build.json").read_text())["stages"]
    assert told["judge"]["judge_steps"] == 3 and told["denoiser"]["seed"] == 5


def test_rendered_drawings_are_kept_and_enough_without_the_packages(tmp_path, monkeypatch):
    folder = tmp_path / f"noto-{DRAWING_SETS[0].version}"
    folder.mkdir()
    icons = {
        "icons": {"church": {"body": "<rect width='8' height='8' fill='red'/>"}},
        "width": 8,
        "height": 8,
    }
    (folder / "icons.json").write_text(json.dumps(icons))
    monkeypatch.setattr(drawings, "DRAWING_SETS", DRAWING_SETS[:1])
    asked = {"church": "church", "no such": "no-such"}
    first = drawings.load_drawings(tmp_path, 32, asked)
    assert first.keys() == {("church", "noto")} and first["church", "noto"].getpixel((16, 16))[0] == 255
    (folder / "icons.json").unlink()
    monkeypatch.setenv("PATH", "")
    again = drawings.load_drawings(tmp_path, 32, asked)
    assert again.keys() == first.keys()


def test_calibration_error_is_the_gap_between_confidence_and_truth():
    confidence, right = np.array([0.95, 0.95, 0.55, 0.55]), np.array([True, True, True, False])
    # Bin of 0.95: 5 points short, bin of 0.55: 5 points beyond; half of the pictures each.
    assert judge_quality.calibration_error(confidence, right) == pytest.approx(5.0)


def test_tokenizer_can_write_down_words_it_never_saw():
    tokenizer = train_tokenizer(["a church on a blue background", "a dog, flat style"] * 20)
    assert tokenizer.tokenize("A church") == ["a</w>", "church</w>"]
    ids = tokenizer("zebra quilt!").input_ids
    assert tokenizer.decode(ids[1:-1]).split() == ["zebra", "quilt", "!"]


def test_normalised_latents_decode_to_the_same_picture():
    torch.manual_seed(0)
    vae = autoencoder.build_autoencoder(4, (8, 8, 16), 64).eval()
    pixels = torch.rand(4, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        before = vae.decode(vae.encode(pixels).latent_dist.mean).sample
        latents = vae.encode(pixels).latent_dist.mean
        autoencoder.normalise_latents(vae, latents)
        after = vae.decode(vae.encode(pixels).latent_dist.mean).sample
        normal = vae.encode(pixels).latent_dist.mean
    assert torch.allclose(before, after, atol=1e-4)
    assert torch.allclose(normal.std(dim=(0, 2, 3)), torch.ones(4), atol=1e-3)
    assert torch.allclose(normal.mean(dim=(0, 2, 3)), torch.zeros(4), atol=1e-3)


def test_smoke_build_writes_a_folder_that_diffusers_draws_with(shapes, tmp_path):
    out = build(tmp_path / "model", tmp_path / "work", tmp_path / "none", SMALL, shapes)
    pipe = StableDiffusionPipeline.from_pretrained(out, torch_dtype=torch.float32, local_files_only=True)
    image = pipe("a ball", num_inference_steps=2, output_type="pil").images[0]
    assert image.size == (64, 64)
    assert CLIPTokenizer.from_pretrained(out / "tokenizer").model_max_length == 77
    assert json.loads((out / "words.json").read_text())["ball"]["objects"].keys() == {"ball"}
    assert json.loads((out / "judge" / "config.json").read_text())["labels"] == ["ball", "house", "none"]
    clip = CLIPModel.from_pretrained(out / "judge" / "clip", torch_dtype=torch.float32)
    assert clip.config.projection_dim == 128
    assert 0 < json.loads((out / "build.json").read_text())["autoencoder_psnr"] < 60
    # The second call finds every stage done and writes the same weights.
    before = (out / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    build(out, tmp_path / "work", tmp_path / "none", SMALL, shapes)
    assert (out / "unet" / "diffusion_pytorch_model.safetensors").read_bytes() == before


def test_a_build_can_go_on_from_an_earlier_model(shapes, tmp_path):
    first = build(tmp_path / "one", tmp_path / "work-1", tmp_path / "none", SMALL, shapes)
    second = build(tmp_path / "two", tmp_path / "work-2", tmp_path / "none", SMALL, shapes, start=first)
    one, two = (load_file(folder / "vae" / WEIGHTS_FILE) for folder in (first, second))
    same = {name for name in one if torch.equal(one[name], two[name])}
    assert {name for name in one if name.startswith(("encoder.", "quant_conv."))} <= same < set(one)
    assert str(tmp_path) not in (second / "vae" / "config.json").read_text()
    told = json.loads((second / "build.json").read_text())["started_from"]
    assert told == hashlib.sha256((first / "unet" / WEIGHTS_FILE).read_bytes()).hexdigest()


def test_stages_without_steps_are_taken_over_from_the_earlier_model(shapes, tmp_path):
    first = build(tmp_path / "one", tmp_path / "work-1", tmp_path / "none", SMALL, shapes)
    (first / "quality.json").write_text('{"objects": {"each": {"ball": 0.0, "house": 100.0}}}')
    kept = replace(SMALL, vae_steps=0, judge_steps=0, seed=1)
    second = build(tmp_path / "two", tmp_path / "work-2", tmp_path / "none", kept, shapes, start=first)
    for name in ("vae/" + WEIGHTS_FILE, "judge/model.safetensors", "judge/reference.safetensors"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    assert (first / "unet" / WEIGHTS_FILE).read_bytes() != (second / "unet" / WEIGHTS_FILE).read_bytes()
    card = model_card(second, {})
    assert "autoencoder and judge are that model's" in card and "steps at batch 4 on 64 scenes" in card
    told = json.loads((second / "words.json").read_text())
    assert told["ball"]["count"] > 1.5 * told["house"]["count"]  # what was drawn badly comes more often


def test_the_judges_clip_learns_which_caption_is_whose(shapes, tmp_path):
    rng = np.random.default_rng(0)
    made = [scenes.compose(rng, shapes, size=64, empty=0.0, pairs=0.0) for _ in range(64)]
    images = torch.from_numpy(np.stack([s.image for s in made]))
    captions = [f"a {s.words[0]}, {s.style} style" for s in made]
    tokenizer = train_tokenizer(captions)
    torch.manual_seed(0)
    clip = alignment.build_clip(tokenizer)
    options = {"steps": 60, "seed": 0, "work": tmp_path, "device": torch.device("cpu"), "batch_size": 16}
    alignment.train_clip(clip, images, captions, tokenizer, **options)
    fresh = [scenes.compose(rng, shapes, size=64, empty=0.0, pairs=0.0) for _ in range(32)]
    texts = ["a ball, noto style", "a house, noto style", "a ball, flat style", "a house, flat style"]
    told = [texts.index(f"a {s.words[0]}, {s.style} style") for s in fresh]
    pictures = np.stack([s.image for s in fresh])
    table = alignment.cosines(clip, tokenizer, pictures, [texts[i] for i in told])
    assert table.shape == (32, 32) and np.abs(table).max() <= 1.001
    own = np.array([[told[i] == told[j] for j in range(32)] for i in range(32)])
    better = np.mean([(table[i][own[i]].max() > table[i][~own[i]]).mean() for i in range(32)])
    assert better > 0.75  # guessing gives a half


def test_matching_tells_own_from_other_captions():
    found = alignment.matching(np.array([[0.9, 0.1, 0.95], [0.0, 0.8, 0.2], [0.3, 0.3, 0.7]]))
    assert found["matching"] == pytest.approx(0.8)
    assert found["shuffled"] == pytest.approx((0.1 + 0.95 + 0.0 + 0.2 + 0.3 + 0.3) / 6)
    assert found["better"] == pytest.approx(100 * 5 / 6)


def test_icons_follow_aliases_and_unknown_names_are_none():
    icons = {
        "icons": {"church": {"body": "<rect width='8' height='8' fill='red'/>"}},
        "width": 8,
        "height": 8,
    }
    icons["aliases"] = {"chapel": {"parent": "church"}}
    assert "<rect" in drawings.svg_of(icons, "chapel")
    assert drawings.svg_of(icons, "mosque") is None


def test_drawings_brought_along_need_no_npm_and_a_missing_npm_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    folder = tmp_path / f"noto-{DRAWING_SETS[0].version}"
    folder.mkdir()
    (folder / "icons.json").write_text("{}")
    assert drawings.fetch(DRAWING_SETS[0], tmp_path) == folder
    with pytest.raises(KpopError, match="npm"):
        drawings.fetch(DRAWING_SETS[1], tmp_path)


def test_fetch_unpacks_what_npm_packs(tmp_path, monkeypatch):
    def pack(command, cwd, **_):
        assert command == ["npm", "pack", "--silent", "@iconify-json/tiny@1.0.0"]
        with tarfile.open(f"{cwd}/tiny.tgz", "w:gz") as archive:
            body = b'{"icons": {}}'
            entry = tarfile.TarInfo("package/icons.json")
            entry.size = len(body)
            archive.addfile(entry, io.BytesIO(body))
        return type("Done", (), {"returncode": 0, "stderr": ""})

    monkeypatch.setattr(drawings.shutil, "which", lambda _: "/usr/bin/npm")
    monkeypatch.setattr(drawings.subprocess, "run", pack)
    tiny = DrawingSet("tiny", "@iconify-json/tiny", "1.0.0", "MIT", "nobody", "Tiny")
    assert (drawings.fetch(tiny, tmp_path) / "icons.json").read_text() == '{"icons": {}}'
