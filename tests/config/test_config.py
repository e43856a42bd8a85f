"""The config: what is refused and how it is said, defaults, overlays."""

from pathlib import Path

import pytest
import yaml

from v4d import config
from v4d.config import relations
from v4d.config.paths import ResultsPaths
from v4d.errors import V4DError
from v4d.training.optim import peak_lr

ROOT = Path(__file__).parents[2]
DEMO = yaml.safe_load((ROOT / "config/config.yaml").read_text())
OVERLAYS = sorted(path for path in (ROOT / "config").glob("*.yaml") if path.name != "config.yaml")


def table(**published) -> dict:
    return {"tables": [{"title": "t", "rows": [{"model": "v4d", "published": published}]}]}


def stages_of(arch: str, *stages: dict) -> dict:
    named = [{"name": f"s{number}"} | stage for number, stage in enumerate(stages)]
    return {"models": {"v4d": {"arch": arch, "stages": named}}}


@pytest.mark.parametrize(
    ("overlay", "words"),
    [
        ({"trainin": 1}, ["unknown key trainin", "training"]),
        ({"training": {"epochs": "x"}}, ["training.epochs", "'x'", "integer"]),
        ({"training": {"epochs": 0}}, ["training.epochs", "0"]),
        ({"training": {"optimizer": {"lr": -1}}}, ["training.optimizer.lr", "-1"]),
        ({"models": {"v4d": {"preset": "papr"}}}, ["models.v4d.preset", "'papr'", "paper", "released"]),
        ({"models": {"v4d": {"arch": "v4d_resnet34"}}}, ["models.v4d.arch", "v4d_resnet34", "v4d_resnet18"]),
        ({"models": {"v4d": {"unit": 3}}}, ["unknown key models.v4d.unit", "units"]),
        ({"models": {"v4d": {"training": {"epoch": 3}}}}, ["models.v4d", "training.epoch", "epochs"]),
        ({"models": {"v4d": {"stages": [{"name": "a", "init": "previous"}]}}}, ["stages.0.init", "first"]),
        ({"models": {"v4d": {"stages": [{"name": "a"}, {"name": "a"}]}}}, ["stages", "same name"]),
        (
            {"models": {"v4d": {"stages": [{"name": "a"}, {"name": "test"}]}}},
            ["v4d.stages", "'test'", "taken"],
        ),
        (
            {"models": {"v4d": {"stages": [{"name": "a"}, {"name": "seed_old"}]}}},
            ["v4d.stages", "'seed_old'", "another seed"],
        ),
        ({"seeds": [1, 2]}, ["seeds: [1, 2]", "begin with seed, 0"]),
        ({"seeds": [0, 1, 1]}, ["seeds", "twice"]),
        ({"models": {"v4d": {"testing": {"crop": 3}}}}, ["unknown key models.v4d.testing.crop", "crops"]),
        ({"models": {"v4d": {"testing": {"units": 0}}}}, ["models.v4d.testing.units", "0"]),
        (
            {"models": {"v4d": {"testing": {"split": "x"}}}},
            ["models.v4d.testing.split 'x'", "dataset.splits"],
        ),
        ({"models": {"v4d": {"testing": {"crop_size": 65}}}}, ["models.v4d.testing.crop_size 65", "64"]),
        ({"tables": [{"title": "t", "rows": [{"model": "x"}]}]}, ["tables", "'t'", "'x'", "no model"]),
        ({"tables": [{"title": "t", "rows": []}]}, ["tables.0.rows"]),
        ({"tables": [{"title": "t", "rows": [{"model": "v4d"}], "columns": ["top9"]}]}, ["tables.0.columns"]),
        ({"models": {"plots": {"arch": "v4d_tiny", "units": 1, "frames": 1}}}, ["models.plots", "taken"]),
        (
            {"models": {"report.html": {"arch": "v4d_tiny", "units": 1, "frames": 1}}},
            ["report.html", "taken"],
        ),
        ({"models": {"tsn": {"blocks": {"res3": [1]}}}}, ["models.tsn.blocks", "i3ds_tiny"]),
        ({"models": {"v4d": {"blocks": {"res3": [2]}}}}, ["models.v4d.blocks", "no block 2 in res3"]),
        ({"models": {"v4d": {"kernel": [3, 2, 1, 1]}}}, ["models.v4d.kernel: [3, 2, 1, 1]", "four odd"]),
        ({"models": {"../x": {"arch": "v4d_tiny", "units": 1, "frames": 1}}}, ["models", "../x"]),
        ({"dataset": {"source": "tape"}}, ["dataset.source", "'tape'", "folder"]),
        ({"dataset": {"splits": ["train"]}}, ["val", "dataset.splits"]),
        ({"dataset": {"splits": ["train", "val", "odd"]}}, ["dataset.synthetic.videos", "'odd'"]),
        ({"clips": {"size": "large"}}, ["clips.size", "'large'"]),
        ({"testing": {"orders": ["units_reversed"]}}, ["testing.orders"]),
        ({"testing": {"crop_size": 65}}, ["testing.crop_size 65", "64", "testing.short_side"]),
        ({"testing": {"short_side": 80, "crop_size": 81}}, ["testing.crop_size 81", "80"]),
        ({"training": {"crop": {"size": 97}}, "clips": {"size": "120x96"}}, ["training.crop.size 97", "96"]),
        (
            {"models": {"v4d": {"training": {"crop": {"size": 99}}}}, "frames": {"size": 98}},
            ["v4d", "99", "98"],
        ),
        ({"name": "../up"}, ["name", "../up"]),
        ({"models": 3}, ["models", "3"]),
        ({"seeds": 3}, ["seeds: 3 should be a list"]),
        ({"tracking": 3}, ["tracking: 3 should be a mapping"]),
        (
            {"tables": [{"title": "t", "rows": [{"model": "v4d"}], "columns": ["top"]}]},
            ["columns.0: 'top' should be"],
        ),
        (
            {"models": {"v4d": {"testing": {"split": "train"}}}},
            ["split 'train' is another than testing.split"],
        ),
        ({"models": {"v4d": {"blocks": {"res9": [1]}}}}, ["models.v4d.blocks.res9", "'res2'", "'res5'"]),
        ({"models": {"v4d": {"blocks": {"res3": [0]}}}}, ["models.v4d.blocks", "no block 0 in res3"]),
        (
            {"training": {"crop": {"jitter": [55, 64]}}},
            ["training.crop.jitter [55, 64]", "training.crop.size 56", "raise"],
        ),
        (
            {"models": {"v4d": {"stages": [{"name": "a", "training": {"crop": {"size": 61}}}]}}},
            ["models.v4d: training.crop.jitter [60, 64]", "training.crop.size 61"],
        ),
        (
            {"training": {"accumulate": 3}},
            ["training.batch_size 16", "training.accumulate 3", "change one"],
        ),
        ({"training": {"accumulate": 32}}, ["training.batch_size 16", "training.accumulate 32"]),
        (
            {"models": {"v4d": {"stages": [{"name": "a", "arch": "i3ds_resnet18"}, {"name": "b"}]}}},
            [
                "models.v4d.init: v4d_tiny",
                "stage before, 'a'",
                "i3ds_resnet18",
                "set an arch of tiny",
            ],
        ),
        (
            stages_of("v4d_resnet50", {"normalisation": "pytorchvideo"}, {"normalisation": "imagenet"}),
            ["models.v4d.init: normalisation 'imagenet'", "'pytorchvideo'", "set the same"],
        ),
        ({"models": {"v4d": {"init": "imagenet"}}}, ["models.v4d.init", "ImageNet", "v4d_tiny", "scratch"]),
        (table(top1=100.1), ["tables.0.rows.0.published", "100.1", "a top1 of 0 to 100"]),
        (table(top1_units_reversed=774), ["published", "774", "a top1_units_reversed of 0 to 100"]),
        (table(top5=-0.1), ["published.top5", "-0.1"]),
        (table(gmac=-1), ["published.gmac", "-1"]),
    ],
)
def test_a_bad_value_is_one_line_that_names_the_key(overlay, words):
    with pytest.raises(V4DError) as error:
        config.resolve(config.merge(DEMO, overlay))
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message


JITTER_BELOW = {"crop": {"jitter": [16, 64]}}
NEVER_SPREAD = {"batch_size": 16, "accumulate": 3}


@pytest.mark.parametrize(
    "overlay",
    [
        {"training": {"crop": {"jitter": [56, 56]}}},
        {"training": {"crop": {"jitter": [16, 64], "kind": "multi_scale"}}},
        {"models": {"v4d": {"checkpoint": "x.pt", "training": JITTER_BELOW}}},  # nothing is trained
        {"models": {"v4d": {"checkpoint": "x.pt", "training": NEVER_SPREAD}}},
        {"models": {"v4d": {"checkpoint": "x.pt", "init": "imagenet"}}},
        {"training": {"accumulate": 16}},
        {"models": {"v4d": {"blocks": {"res3": [1], "res4": [1]}}}},
        stages_of("v4d_resnet18", {"arch": "i3ds_resnet18", "init": "imagenet"}, {}, {"preset": "paper"}),
        stages_of("v4d_resnet18", {"arch": "i3ds_resnet18pp"}, {"blocks": {"res5": [1]}}),
        stages_of("v4d_resnet18", {"arch": "v4d_resnet50"}, {"init": "imagenet"}, {"init": "previous"}),
        stages_of("v4d_resnet50", {"normalisation": "pytorchvideo"}, {"init": "x.pt"}),
        stages_of("v4d_resnet50", {"kernel": [3, 1, 1, 1], "start4d": {"kernel": "zero"}}),
        stages_of("v4d_tiny", {"arch": "i3ds_tiny", "start4d": {"kernel": "zero"}}, {}),
        {"models": {"v4d": {"start4d": {"kernel": "zero"}, "stages": [{"name": "a", "arch": "i3ds_tiny"},
                                                                       {"name": "b"}]}}},
        {"models": {"tsn": {"checkpoint": "x.pt", "start4d": {"kernel": "zero"}}}},
        table(top1=0, top5=100, top1_std=0.0, parameters=1e8, gmac=285, test_seconds_per_video=0),
        {"training": {"optimizer": {"name": "adamw"}}},
        {"training": {"optimizer": {"nesterov": True}}},
        {"training": {"schedule": {"warmup_epochs": 0}}},
        {"training": {"schedule": {"name": "cosine", "warmup_epochs": 20}}},
        {"testing": {"units": 4}},
    ],
)  # fmt: skip
def test_its_neighbour_that_is_right_passes_without_a_word(overlay):
    assert config.notes(config.build(config.resolve(config.merge(DEMO, overlay)))) == []


@pytest.mark.parametrize(
    ("overlay", "expected"),
    [
        (
            {"training": {"optimizer": {"name": "adamw", "nesterov": True}}},
            ["training.optimizer.nesterov has no effect with adamw", "false"],
        ),
        (
            {"training": {"schedule": {"warmup_epochs": 0.5}}},
            ["training.schedule.warmup_epochs 0.5 has no effect with onecycle", "rise"],
        ),
        (
            {"training": {"schedule": {"name": "step", "warmup_epochs": 20.5}}},
            ["training.schedule.warmup_epochs 20.5 is longer than the training, 20 epochs", "lower it"],
        ),
        ({"testing": {"units": 3}}, ["testing.units 3 is below", "units 4", "set 4 or more"]),
    ],
)
def test_a_key_without_effect_is_noted_and_not_refused(overlay, expected):
    document = config.merge(DEMO, overlay | {"models": {"i3ds": None}})
    tsn, v4d = config.notes(config.build(config.resolve(document)))
    assert "models.tsn" in tsn and "models.v4d" in v4d
    assert all(word in line for word in expected for line in (tsn, v4d))


@pytest.mark.parametrize("key", [{"start4d": {"kernel": "zero"}}, {"kernel": [3, 1, 1, 1]}])
@pytest.mark.parametrize(
    "model",
    [
        {"tsn": {"stages": [{"name": "a"}, {"name": "b", "units": 2}]}},
        {"tsn": {"arch": "i3ds_resnet18pp"}},
        {"tsn": {"arch": "v4d_tiny", "blocks": {}}},
    ],
)
def test_what_says_how_4d_blocks_start_is_noted_where_no_stage_has_any(model, key):
    document = config.merge(DEMO, {"models": {"tsn": model["tsn"] | key}})
    (line,) = config.notes(config.build(config.resolve(document)))
    assert line.startswith(f"models.tsn.{next(iter(key))} has no effect: no stage has 4D blocks")


def test_a_model_with_a_protocol_of_its_own_is_noted_by_its_own_key():
    document = config.merge(DEMO, {"models": {"v4d": {"testing": {"units": 2}}}})
    (line,) = config.notes(config.build(config.resolve(document)))
    assert line == ("models.v4d.testing.units 2 is below models.v4d.units 4: 4 are used; set 4 or more")


@pytest.mark.parametrize("path", [ROOT / "config/config.yaml", *OVERLAYS], ids=lambda path: path.stem)
def test_of_the_shipped_configs_there_is_nothing_to_note(path):
    assert config.notes(config.load(path)) == []


def test_resolving_twice_changes_nothing():
    once = config.resolve(DEMO)
    assert config.resolve(once) == once


def test_no_name_is_one_of_a_file_or_folder_beside_it():
    """What lies in results/<name>/ and results/<name>/<model>/ under fixed names."""
    paths = ResultsPaths(Path("results"))
    files = "config.yaml tracking.json report.html comparison.csv comparison.md comparison_published.csv"
    files += " comparison_seeds.csv comparison_tables.csv significance.csv"
    folders = {"plots", paths.benchmark("x").parent.name, paths.run_state("dataset").parent.name}
    assert {*files.split(), *folders} == set(relations.RESERVED_MODELS)
    assert paths.test("v4d").name == relations.TEST
    assert ResultsPaths(Path("results"), "seed_1").model("v4d").name.startswith(relations.SEED)


def test_the_input_is_left_alone():
    before = yaml.safe_dump(DEMO)
    config.resolve(DEMO)
    assert yaml.safe_dump(DEMO) == before


@pytest.mark.parametrize("path", OVERLAYS, ids=lambda path: path.stem)
def test_nothing_of_the_demo_shows_through_an_overlay(path):
    """An experiment's file is whole: behind the demo's or alone, it means the same."""
    overlay = yaml.safe_load(path.read_text())
    over_demo, alone = config.resolve(config.merge(DEMO, overlay)), config.resolve(overlay)
    if all(model["checkpoint"] for model in alone["models"].values()):  # nothing is trained
        for document in (over_demo, alone):
            del document["training"]
            for model in document["models"].values():
                del model["stages"]
    assert over_demo == alone


def test_a_run_is_a_model_with_a_seed_and_its_own_protocol():
    overlay = {"seeds": [0, 7], "models": {"i3ds": {"checkpoint": "x.pt"}, "v4d": {"testing": {"crops": 1}}}}
    settings = config.build(config.resolve(config.merge(DEMO, overlay)))
    assert settings.every_run == ["i3ds", "tsn", "tsn/seed_7", "v4d", "v4d/seed_7"]
    assert settings.paths.final_weights("v4d", "main") == Path("results/demo/v4d/main/final.pt")
    seventh, model = settings.run("v4d/seed_7")
    assert (seventh.seed, model.name, seventh.run_name("v4d")) == (7, "v4d", "v4d/seed_7")
    assert seventh.paths.test_metrics("v4d") == Path("results/demo/v4d/seed_7/test/metrics.json")
    assert seventh.paths.comparison == settings.paths.comparison
    assert (seventh.testing.crops, seventh.testing.units) == (1, 8)
    assert settings.run("tsn")[0].testing == settings.testing and settings.testing.crops == 3
    for name in ("v4d/seed_0", "v4d/seed_8", "v4d/x", "i3ds/seed_7"):
        with pytest.raises(V4DError, match=f"no run '{name}'"):
            settings.run(name)


def test_new_keys_at_their_defaults_leave_no_trace():
    plain = config.build(config.resolve(DEMO))
    new = {"seeds": [], "tables": [], "models": {"v4d": {"testing": {}}}}
    new["dataset"] = {"synthetic": {"task": "order"}}
    assert config.config_sha(config.build(config.resolve(config.merge(DEMO, new)))) == config.config_sha(
        plain
    )


def test_null_removes_a_model():
    settings = config.build(config.resolve(config.merge(DEMO, {"models": {"tsn": None}})))
    assert set(settings.models) == {"i3ds", "v4d"}


def test_stages_lie_over_the_model_and_the_model_over_training():
    document = config.merge(
        DEMO,
        {
            "training": {"epochs": 5, "batch_size": 8},
            "models": {
                "v4d": {
                    "training": {"epochs": 6},
                    "stages": [
                        {"name": "one", "units": 1, "init": "x.pt"},
                        {"name": "two", "training": {"epochs": 7}, "freeze": ["blocks4d_zero"]},
                    ],
                }
            },
        },
    )
    one, two = config.build(config.resolve(document)).models["v4d"].stages
    assert (one.units, one.init, one.training.epochs, one.training.batch_size) == (1, "x.pt", 6, 8)
    assert (two.units, two.init, two.training.epochs, two.freeze) == (4, "previous", 7, ("blocks4d_zero",))


def shipped(name: str, **overlay) -> config.Config:
    document = yaml.safe_load((ROOT / f"config/{name}.yaml").read_text())
    return config.build(config.resolve(config.merge(document, overlay)))


@pytest.mark.parametrize("name", ["kinetics400", "kinetics400_paper"])
def test_the_second_stage_of_kinetics_is_tsn_without_4d_blocks(name):
    settings = shipped(name)
    assert [stage.name for stage in settings.models["v4d"].stages] == ["backbone", "tsn", "v4d"]
    for row, stage in (("i3ds", "backbone"), ("tsn", "tsn")):
        tested, trained = settings.models[row].final, settings.models["v4d"].stage(stage)
        assert settings.models[row].checkpoint == f"results/{name}/v4d/{stage}/final.pt"
        shape = (tested.arch, tested.units, tested.frames)
        assert shape == (trained.arch, trained.units, trained.frames) == ("i3ds_resnet50", shape[1], 8)
    assert shape[1] == 4 and not trained.freeze


def test_the_authors_kinetics_is_one_run_and_one_pass():
    settings = shipped("kinetics400_authors")
    (stage,) = settings.models["v4d"].stages
    assert (stage.arch, stage.preset, stage.init, stage.training.epochs) == (
        "v4d_resnet50",
        "released",
        "imagenet",
        150,
    )
    for testing in (settings.testing, shipped("released_kinetics400").testing):
        assert (testing.combinations, testing.average) == ("all_units", "logits")
    assert settings.testing.checkpoint == "best"


@pytest.mark.parametrize("name", ["kinetics400", "mini_kinetics200"])
def test_the_paper_s_frames_keep_their_ratio_in_a_data_set_of_their_own(name):
    squeezed, kept = shipped(name), shipped(f"{name}_paper")
    assert config.frame_size(squeezed.clips.size) == (320, 256) and kept.clips.size == 256
    assert kept.dataset.name != squeezed.dataset.name
    assert (kept.testing.short_side, kept.testing.crop_size) == (256, 256)


@pytest.mark.parametrize(
    ("name", "batch"),
    [(f"{name}{end}", batch) for name, batch in (("kinetics400", 64), ("mini_kinetics200", 48))
     for end in ("", "_paper")] + [("kinetics400_authors", 64), ("kinetics400_from_slow", 64)],
)  # fmt: skip
def test_a_smaller_batch_lowers_the_rate_of_kinetics(name, batch):
    """And the batch that the rate is meant for leaves no trace: no training of before starts anew."""
    plain, small = shipped(name), shipped(name, training={"batch_size": batch // 8})
    for model in plain.models:
        stage = plain.models[model].final
        assert stage.training.optimizer.reference_batch is None
        assert peak_lr(small.models[model].final.training) == pytest.approx(peak_lr(stage.training) / 8)


@pytest.mark.parametrize("content", ["- a list", "a: [", "\x00"])
def test_a_file_that_is_no_config(tmp_path, content):
    path = tmp_path / "config.yaml"
    path.write_text(content)
    with pytest.raises(V4DError, match=r"config\.yaml"):
        config.load(path)


@pytest.mark.parametrize("text", ["1e-5", "2e300", "5"])
def test_a_number_that_is_text_to_yaml(text):
    """What the message advises is a number to YAML."""
    document = {"training": {"optimizer": {"lr": text}}}
    with pytest.raises(V4DError, match=rf"'{text}'.*write \S+\)") as caught:
        config.resolve(config.merge(DEMO, document))
    advice = str(caught.value).rpartition("write ")[2].rstrip(")")
    assert yaml.safe_load(advice) == float(text)


def test_a_missing_file():
    with pytest.raises(V4DError, match=r"no such config file: nowhere\.yaml"):
        config.load("nowhere.yaml")


def test_frame_sizes():
    assert config.frame_size("320x256") == (320, 256)
    assert config.frame_size(256) == 256


def test_the_same_settings_have_the_same_sha():
    assert config.sha({"a": 1, "b": [2]}) == config.sha({"b": [2], "a": 1}) != config.sha({"a": 2, "b": [2]})
