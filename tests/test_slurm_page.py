"""The scripts of docs/how-to/slurm.md, with stand-ins for Slurm and DVC."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs/how-to/slurm.md"
JOB, FLOW, ARRAY = re.findall(r"```bash\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_bash_reads_every_script() -> None:
    for script in (JOB, JOB.replace("dvc repro &\n", FLOW), ARRAY):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_before_its_time_limit_a_job_ends_the_pipeline_and_goes_back_to_the_queue(tmp_path: Path) -> None:
    tools = {"dvc": "echo $1 $$\nexec sleep 60\n", "scontrol": 'echo "scontrol $*"\n', ".venv/bin/activate": ""}
    for name, text in tools.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "job.sh").write_text(JOB)
    variables = {"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "7", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    log = tmp_path / "atp-7.log"
    with log.open("w") as output:
        job = subprocess.Popen(["bash", "job.sh"], cwd=tmp_path, env=os.environ | variables, stdout=output)
    end = time.monotonic() + 30
    while not log.read_text().endswith("\n"):
        assert time.monotonic() < end
        time.sleep(0.02)
    job.send_signal(signal.SIGTERM)
    assert job.wait(30) == 128 + signal.SIGTERM
    (command, pid), said = log.read_text().splitlines()[0].split(), log.read_text().splitlines()[1]
    assert (command, said) == ("repro", "scontrol requeue 7")
    assert not Path(f"/proc/{pid}").exists()
