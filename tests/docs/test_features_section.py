"""The section on features: its blocks run, one after another."""

import os
import shlex

from pages import ROOT, blocks

SMALL = ("trainer.max_steps=20", "trainer.val_check_interval=20", "task.test_episodes=10", "task.val_episodes=5")


def test_the_section_on_features_runs(run_server, tmp_path, monkeypatch, capsys):
    own = blocks(ROOT / "docs" / "own-images.md")
    digits, label = (next(block.text for block in own if block.title == name) for name in ("digits.py", "label.py"))
    (command,) = (block.text for block in own if "data=arrays" in block.text)
    monkeypatch.chdir(tmp_path)
    exec(digits, {})
    done = run_server.run([*shlex.split(command)[2:], *SMALL, "figures=false"], tmp_path, os.environ)
    assert done.returncode == 0, done.stderr
    exec(label, {})
    assert len(capsys.readouterr().out.split(",")) == 10
