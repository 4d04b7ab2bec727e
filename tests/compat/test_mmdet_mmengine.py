"""fastloss.register_mmdet: mmengine's registry builds the mirrored losses from configs.

In a process of their own, because the other tests put a stand-in in the place of mmengine.
"""

import subprocess
import sys

import pytest
import references

import fastloss

PREAMBLE = f"""
import sys, types
sys.path.append({str(references.FOLDER)!r})
import fastloss
from fastloss.compat import mmdet
"""


def run(code: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", PREAMBLE + code], capture_output=True, text=True, check=False
    )
    if "No module named 'mmengine'" in result.stderr:
        pytest.skip(f"mmengine is not installed: {references.INSTALL}")
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_a_config_builds_every_class():
    out = run("""
import torch
fastloss.register_mmdet()
fastloss.register_mmdet()
from mmengine.config import Config
from mmengine.registry import MODELS, Registry
heads = Registry("model", parent=MODELS, scope="mmdet")  # where mmdet builds its heads' losses
classes = [x for x in map(vars(mmdet).get, mmdet.__all__) if isinstance(x, type)]
for cls in classes:
    needed = {"num_classes": 4} if "Custom" in cls.__name__ else {}
    config = Config({"loss": {"type": f"fastloss.{cls.__name__}", **needed}})
    for registry in (MODELS, heads):
        assert type(registry.build(config.loss)) is cls, cls
loss = heads.build({"type": "fastloss.L1Loss", "loss_weight": 2.0})
assert loss(torch.ones(3), torch.zeros(3)) == 2
assert "L1Loss" not in heads and "mmdet" not in sys.modules
print(len(classes))
""")
    assert int(out.splitlines()[-1]) >= 17  # mmengine prints warnings before


def test_in_place_of_mmdets_own():
    run("""
from mmengine.registry import MODELS, Registry

class L1Loss: ...
class Head: ...
theirs = Registry("model", parent=MODELS, scope="mmdet", locations=["mmdet.models"])
def package(name, **attributes):
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name]).update(attributes, __path__=[])
package("mmdet")
package("mmdet.registry", MODELS=theirs)
package("mmdet.models")
theirs.register_module(module=L1Loss)
theirs.register_module(module=Head)
imported = []
theirs.import_from_location = lambda: imported.append("mmdet.models")
fastloss.register_mmdet(replace=True)
assert theirs.get("L1Loss") is mmdet.L1Loss and theirs.get("GIoULoss") is mmdet.GIoULoss
assert theirs.get("Head") is Head and imported
ours = MODELS.children["fastloss"]
assert "Accuracy" not in theirs.module_dict and "Accuracy" in ours.module_dict
""")


def test_errors(monkeypatch):
    with pytest.raises(TypeError, match="replace must be True or False, got int"):
        fastloss.register_mmdet(1)
    monkeypatch.setitem(sys.modules, "mmengine.registry", None)
    with pytest.raises(ImportError, match="pip install mmengine"):
        fastloss.register_mmdet()
