"""Vision towers of transformers: features and preprocessing, in a process that finds the library.

The library lies apart from the other packages, since torchmetrics would import it in every process.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
APART = Path(sys.prefix) / "apart"

SAVE = """
import fewshot, json, sys, torch
from transformers import CLIPConfig, CLIPModel, Dinov2Config, Dinov2Model
small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
torch.manual_seed(0)
crop = {"height": 28, "width": 28}
shorter = {"do_center_crop": True, "crop_size": crop, "size": {"shortest_edge": 32}, "resample": 3}
squashed = {"do_center_crop": False, "size": {"height": 32, "width": 32}, "resample": 2}
tower = small | {"image_size": 32, "patch_size": 16}
mean, std = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
for name, model, prepared in (
    ("dinov2", Dinov2Model(Dinov2Config(**small, image_size=28, patch_size=14)), shorter),
    ("clip", CLIPModel(CLIPConfig(vision_config=tower, text_config=small)), squashed),
):
    folder = f"{sys.argv[1]}/{name}"
    model.save_pretrained(folder)
    prepared |= {"image_mean": mean, "image_std": std, "image_processor_type": "CLIPImageProcessor"}
    open(f"{folder}/preprocessor_config.json", "w").write(json.dumps(prepared))
"""

LOAD = """
import fewshot, json, sys, torch
from fewshot.networks import transformers_backbone
from transformers import AutoModel
backbone = transformers_backbone(sys.argv[1])
size = backbone.decoding.image_size
x = torch.rand(2, 3, size, size)
model = AutoModel.from_pretrained(sys.argv[1]).eval()
tower = getattr(model, "vision_model", model)
mean, std = (torch.tensor(values)[:, None, None] for values in ([0.5, 0.4, 0.3], [0.2, 0.3, 0.4]))
theirs = tower(pixel_values=(x - mean) / std)
equal = torch.allclose(backbone(x), theirs.pooler_output, atol=1e-5)
other = transformers_backbone(sys.argv[1], weights=None)
decoding = backbone.decoding
print(json.dumps({
    "equal": equal, "features": backbone.features, "random": not torch.allclose(other(x), backbone(x)),
    "decoding": [size, decoding.fit, decoding.scale, decoding.resampling],
}))
"""

REFUSE = """
import fewshot, os
os.environ["HF_ENDPOINT"] = "http://nowhere.invalid"
from fewshot.errors import UserError
from fewshot.networks import transformers_backbone
for arguments in (("facebook/dinov2-small",), (None,), ("x", "file.pth")):
    try:
        transformers_backbone(*arguments)
    except UserError as error:
        print(error)
"""


def run(code: str, *arguments: str, apart: bool = True) -> str:
    path = os.pathsep.join([str(ROOT / "src"), *([str(APART)] if apart else [])])
    environment = {key: value for key, value in os.environ.items() if key.lower() != "https_proxy"} | {
        "PYTHONPATH": path
    }
    command = [sys.executable, "-c", code, *arguments]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert finished.returncode == 0, finished.stderr[-2000:]
    return finished.stdout


@pytest.mark.thorough
def test_towers_give_their_pooled_output_and_follow_their_preprocessing(tmp_path):
    run(SAVE, str(tmp_path))
    dinov2 = json.loads(run(LOAD, str(tmp_path / "dinov2")).splitlines()[-1])
    clip = json.loads(run(LOAD, str(tmp_path / "clip")).splitlines()[-1])
    assert dinov2 == {"equal": True, "features": 16, "random": True, "decoding": [28, "centre_crop", 32, "bicubic"]}
    assert clip == {"equal": True, "features": 16, "random": True, "decoding": [32, "squash", 32, "bilinear"]}


@pytest.mark.thorough
def test_names_that_cannot_be_had_are_one_line():
    hub, none, file = run(REFUSE).splitlines()
    assert "the model cannot be had" in hub
    assert hub.endswith("huggingface.co/facebook/dinov2-small, and set backbone.name=FOLDER")
    assert none.startswith("backbone.name=null: name a model")
    assert file == "backbone.weights=file.pth: choose hub or null; backbone.name=FOLDER takes files"


def test_without_the_library_one_line_says_what_to_install():
    code = "import fewshot.networks as n\ntry:\n    n.transformers_backbone('a')\nexcept Exception as e: print(e)"
    assert "pip install -r requirements-transformers.txt" in run(code, apart=False)
