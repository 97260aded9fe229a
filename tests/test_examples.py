"""The examples run as they stand."""

import os
import runpy
from pathlib import Path

CHECKOUT = Path(os.environ.get("MSDM_KIT_CHECKOUT", Path(__file__).resolve().parents[1]))


def test_recombine(tmp_path, capsys):
    main = runpy.run_path(str(CHECKOUT / "examples" / "recombine.py"))["main"]
    main(["--out", str(tmp_path), "--steps", "1"])
    assert len(list(tmp_path.glob("*.png"))) == 7
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert "'appearance': 'given'" in lines[2]
