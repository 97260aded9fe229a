import subprocess
import sys


def test_conditioners_import_nothing_heavy() -> None:
    names = ("bert_text", "class_label", "hv_maps", "label_map", "rgb_statistics")
    code = (
        f"import importlib, sys\nfor n in {names}: importlib.import_module('msdm_kit.conditioners.' + n)\n"
        "heavy = {'transformers', 'tokenizers', 'huggingface_hub', 'scipy', 'skimage', 'safetensors'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
