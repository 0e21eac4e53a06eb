"""The life of a run, from `create` to `delete`, in a cloud that stands in for Google's.

What runs on workers really runs, with stand-ins for what would need the network, root or a TPU.
"""

import json
import os
import subprocess
import time

import pytest


def failing(
    *words: str, times: int = 99, code: int = 1, says: str = "ERROR: (gcloud) no", after: float = 0
) -> dict:
    """A failure to plan: of the calls that hold all words, so often, after so many seconds."""
    return {"in": list(words), "times": times, "code": code, "says": says, "after": after}


def test_a_whole_run(cloud):
    run = cloud.launch("watch", HF_TOKEN="a secret", MODEL="gs://my-bucket/model")
    assert run.returncode == 1, "the model is not there yet"
    (cloud.folder / "bucket/my-bucket/model").mkdir()
    (cloud.workdir / "data-1-x").mkdir(parents=True)
    (cloud.workdir / "data-1-x/columns.npz").touch()
    run = cloud.launch("watch", HF_TOKEN="a secret", MODEL="gs://my-bucket/model")
    assert run.returncode == 0, run.stdout
    assert cloud.nothing_left()
    results = json.loads((cloud.folder / "output/run/results.json").read_text())
    assert results == {"steps": 4, "began": 0}
    home = cloud.folder / "homes/run"
    assert [cloud.starts(f"run-{i}") for i in range(2)] == [
        [
            "-m lrt_jax.main --config=configs/imagereward.py:7b "
            "--workdir=gs://my-bucket/lrt_jax/runs/run "
            "--compilation_cache=gs://my-bucket/lrt_jax/compiled "
            "--config.steps=4 --config.mesh.tensor=2 "
            f"--config.model.path={home}/{i}/lrt/model"
        ]
        for i in range(2)
    ]
    fetched = {path.name for path in (cloud.folder / "output/run").iterdir()}
    assert fetched == {"results.json", "export"}  # neither checkpoints nor data
    written = [x.read_bytes() for x in cloud.folder.rglob("*") if x.is_file()]
    assert not any(b"a secret" in content for content in written)


def test_no_quota(cloud):
    says = "ERROR: Quota limit 'TPUV5PPreemptiblePerProject' has been exceeded. Limit: 0"
    cloud.plan(fail=[failing("queued-resources create", says=says)])
    run = cloud.launch("create")
    assert run.returncode == 1
    assert says in run.stdout
    assert "https://console.cloud.google.com/iam-admin/quotas?project=my-project" in run.stdout
    assert cloud.nothing_left()


def test_a_request_whose_answer_is_lost_is_not_forgotten(cloud):
    cloud.plan(lost=["queued-resources create"])
    run = cloud.launch("watch")
    assert run.returncode == 0, run.stdout
    assert "run is ACTIVE nevertheless" in run.stdout
    assert len(cloud.calls("queued-resources create")) == 1
    assert cloud.nothing_left()


def test_a_request_that_fails_later_is_removed(cloud):
    cloud.plan(states=["ACCEPTED", "FAILED"])
    run = cloud.launch("create")
    assert run.returncode == 1
    assert "the request run is FAILED" in run.stdout
    assert cloud.nothing_left()


def test_a_request_that_fails_and_cannot_be_removed_is_no_secret(cloud):
    cloud.plan(states=["ACCEPTED", "FAILED"], fail=[failing("queued-resources delete")])
    run = cloud.launch("create")
    assert run.returncode == 1
    assert "run COULD NOT BE DELETED" in run.stdout
    assert "there are no nodes" not in run.stdout
    cloud.plan(fail=[])
    assert cloud.launch("delete").returncode == 0
    assert cloud.nothing_left()


def test_no_capacity_is_waited_for(cloud):
    cloud.plan(states=["WAITING_FOR_RESOURCES"] * 3 + ["PROVISIONING", "ACTIVE"])
    run = cloud.launch("create")
    assert run.returncode == 0, run.stdout
    assert run.stdout.count("no capacity yet: run is WAITING_FOR_RESOURCES") >= 2
    assert "Looking again in 0.05 s" in run.stdout
    assert "you pay about $33.60 an hour until it is deleted" in run.stdout
    [create] = cloud.calls("queued-resources create")
    assert "--valid-until-duration=24h" in create  # nobody is surprised next week
    assert cloud.launch("delete").returncode == 0
    assert cloud.nothing_left()


def test_nodes_that_are_taken_away_before_they_are_seen_are_asked_for_again(cloud):
    cloud.plan(states=["WAITING_FOR_RESOURCES"] * 2 + ["SUSPENDED"], later_states=["ACTIVE"])
    run = cloud.launch("watch", POLL_SECONDS="2")
    assert run.returncode == 0, run.stdout
    assert "run was taken away again, before it was seen" in run.stdout
    gone = run.stdout.split("run is gone: you pay for no TPU of it; $")[1]
    assert float(gone.split()[0]) >= 0.02  # two seconds, which nobody saw
    assert len(cloud.calls("queued-resources create")) == 2
    assert cloud.nothing_left()


def test_two_that_watch_do_not_meet(cloud):
    """And who leaves the queue is told that what comes of it costs."""
    cloud.plan(states=["WAITING_FOR_RESOURCES"] * 999)
    with cloud.begin("watch") as first:
        while not cloud.calls("queued-resources create"):
            pass
        second = cloud.launch("watch")
        first.terminate()
        told, _ = first.communicate(timeout=60)
    assert second.returncode == 1
    assert f"process {first.pid} watches run already" in second.stdout
    assert first.returncode == 130
    assert "run stays in the queue, and costs from when it is there" in told
    assert len(cloud.calls("queued-resources create")) == 1
    assert cloud.launch("delete").returncode == 0
    assert cloud.nothing_left()


def test_who_deletes_ends_the_watch_first(cloud):
    cloud.plan(states=["WAITING_FOR_RESOURCES"] * 999)
    with cloud.begin("watch") as watch:
        while not cloud.calls("queued-resources create"):
            pass
        run = cloud.launch("delete")
        watch.communicate(timeout=60)
    assert run.returncode == 0, run.stdout
    assert f"ending process {watch.pid}, which watches run" in run.stdout
    assert watch.returncode == 130
    assert len(cloud.calls("queued-resources create")) == 1
    assert cloud.nothing_left()


def test_an_output_that_cannot_be_written_is_told(cloud):
    run = cloud.launch("watch", OUTPUT="/proc")
    assert run.returncode == 1
    assert "cannot be written; name another OUTPUT" in run.stdout
    assert not cloud.calls()


def test_one_that_was_killed_does_not_keep_others_out(cloud):
    (cloud.folder / "output").mkdir()
    (cloud.folder / "output/watched_by").write_text(f"{os.getpid()}\n")
    assert cloud.launch("watch").returncode == 0
    assert cloud.nothing_left()


def test_a_run_that_has_ended_rents_nothing(cloud):
    assert cloud.launch("watch").returncode == 0
    (cloud.folder / "output/run/results.json").unlink()
    run = cloud.launch("watch")
    assert run.returncode == 0
    assert "runs/run has ended" in run.stdout
    assert (cloud.folder / "output/run/results.json").exists()
    assert len(cloud.calls("queued-resources create")) == 1
    (cloud.workdir / "export/config.json").unlink()  # without its model it has not
    assert cloud.launch("watch").returncode == 0
    assert len(cloud.calls("queued-resources create")) == 2
    assert cloud.nothing_left()


def test_a_run_that_is_taken_away_goes_on(cloud):
    cloud.plan(taken_at_step=2)
    cloud.plan_training(waits_at=2)
    run = cloud.launch("watch")
    assert run.returncode == 0, run.stdout
    assert "run was taken away, it is SUSPENDED" in run.stdout
    assert len(cloud.calls("queued-resources create")) == 2
    assert [len(cloud.starts(who)) for who in ("run-0", "run-1")] == [2, 2]
    assert json.loads((cloud.folder / "output/run/results.json").read_text())["began"] == 2
    assert cloud.nothing_left()


def test_a_worker_that_fails_in_setup_is_named(cloud):
    broken = cloud.folder / "setup-fails-run-1"
    broken.touch()
    assert cloud.launch("create").returncode == 0
    run = cloud.launch("setup")
    assert run.returncode == 1
    assert "worker 1 of run: setup failed" in run.stdout
    assert "| no such wheel" in run.stdout
    assert "lrt-failed setup, at: libraries" in run.stdout
    assert "worker 0 of run" not in run.stdout
    assert "the nodes are still there, at about $33.60 an hour" in run.stdout
    broken.unlink()
    assert cloud.launch("setup").returncode == 0
    assert cloud.launch("delete").returncode == 0
    assert cloud.nothing_left()


def test_nobody_pays_after_a_setup_that_fails_unwatched(cloud):
    (cloud.folder / "setup-fails-run-1").touch()
    run = cloud.launch("watch")
    assert run.returncode == 1
    assert "worker 1 of run: setup failed" in run.stdout
    assert cloud.nothing_left()


def test_a_setup_that_hangs_is_ended(cloud):
    (cloud.folder / "setup-hangs-run-1").touch()
    run = cloud.launch("watch", SETUP_SECONDS="1")
    assert run.returncode == 1
    assert "worker 1 of run: setup failed" in run.stdout
    assert "| ended by SIGTERM: it took too long, or the machine goes" in run.stdout
    assert "lrt-failed setup, at: libraries" in run.stdout
    assert cloud.nothing_left()


def test_a_setup_that_hangs_does_not_pass_the_cap_on_cost(cloud):
    (cloud.folder / "setup-hangs-run-1").touch()
    run = cloud.launch("watch", PRICE="1000", MAX_COST="7")  # which is three seconds
    assert run.returncode == 1
    assert "and MAX_COST is 7: stopping" in run.stdout
    assert cloud.nothing_left()


def test_workers_that_may_not_read_the_code_are_not_made_again(cloud):
    cloud.plan(fail=[failing("$ storage cat", times=3 * 2, says="ERROR: HTTPError 403")])
    run = cloud.launch("watch")
    assert run.returncode == 1
    assert "| ERROR: HTTPError 403" in run.stdout
    assert "lrt-failed setup, at: code from the bucket" in run.stdout
    assert len(cloud.calls("queued-resources create")) == 1
    assert cloud.nothing_left()


def test_a_worker_that_fails_in_training_is_named(cloud):
    cloud.plan_training(exits={"run-0": [75], "run-1": [1]})
    run = cloud.launch("watch")
    assert run.returncode == 1
    assert "worker 1 of run failed with exit code 1" in run.stdout
    assert "| error: bad image on run-1" in run.stdout
    [log] = (cloud.folder / "output/logs").glob("*/worker-1.log")
    assert "bad image on run-1" in log.read_text()
    assert len(cloud.starts("run-1")) == 1
    assert cloud.nothing_left()


def test_nodes_stay_where_that_is_asked(cloud):
    cloud.plan_training(exits={"run-0": [75], "run-1": [1]})
    run = cloud.launch("watch", KEEP_ON_FAILURE="1")
    assert run.returncode == 1
    assert "the nodes are still there" in run.stdout
    assert cloud.state()["nodes"] == ["run"]
    run = cloud.launch("watch")  # the same command, once it is mended
    assert run.returncode == 0, run.stdout
    assert "worker 1 of run failed with exit code 1, before this watch" in run.stdout
    assert len(cloud.calls("queued-resources create")) == 1
    assert cloud.nothing_left()


def test_exit_codes_that_mean_again(cloud):
    cloud.plan_training(exits={"run-0": [75, 143, 0], "run-1": [134, 0, 0]})
    run = cloud.launch("watch")
    assert run.returncode == 0, run.stdout
    assert "starting all again, from the last checkpoint" in run.stdout
    assert len(cloud.calls("queued-resources create")) == 1
    assert [len(cloud.starts(who)) for who in ("run-0", "run-1")] == [3, 3]
    assert cloud.nothing_left()


def test_a_cap_on_starts(cloud):
    cloud.plan_training(exits={"run-0": [75] * 9, "run-1": [75] * 9})
    run = cloud.launch("watch", MAX_ATTEMPTS="2")
    assert run.returncode == 1
    assert "started 2 times (counted in" in run.stdout
    assert len(cloud.starts("run-0")) == 2
    assert cloud.nothing_left()
    for caps in ({"MAX_ATTEMPTS": "2"}, {"MAX_COST": "0"}):
        assert cloud.launch("watch", **caps).returncode == 1
    assert len(cloud.calls("queued-resources create")) == 1, "nothing is rented over a cap"


def test_a_cap_on_cost_stops_the_run(cloud):
    cloud.plan_training(waits_at=2)
    run = cloud.launch("watch", PRICE="1000", MAX_COST="7")  # which is three seconds
    assert run.returncode == 1
    assert "and MAX_COST is 7: stopping, with a last checkpoint" in run.stdout
    assert sorted(x.name for x in cloud.workdir.glob("saved-by-*")) == [
        "saved-by-run-0",
        "saved-by-run-1",
    ]
    assert cloud.nothing_left()


COUNTS = ("billed_seconds", "active_since", "attempts")
FOLDER, DANGLING = "a folder", "a link to nothing"


@pytest.mark.parametrize(
    ("file", "count"),
    [
        ("billed_seconds", "12 s"),
        ("billed_seconds", ""),
        ("billed_seconds", "9" * 30),
        ("active_since", "a[$(touch executed)]"),
        ("active_since", "99999999999"),  # in the future
        ("attempts", "-5"),
        *((file, what) for file in COUNTS for what in (FOLDER, DANGLING)),
    ],
)
def test_a_count_that_cannot_be_read_is_over_the_cap(cloud, file, count):
    output = cloud.folder / "output"
    output.mkdir()
    if count == FOLDER:
        (output / file).mkdir()
    elif count == DANGLING:
        (output / file).symlink_to("nowhere")
    else:
        (output / file).write_text(count)
    run = cloud.launch("watch")
    assert run.returncode == 1
    assert str(output / file.split("_since")[0].replace("active", "billed_seconds")) in run.stdout
    assert "syntax error" not in run.stdout
    assert not cloud.calls("queued-resources create")
    assert not list(cloud.folder.rglob("executed"))


def test_a_count_that_is_damaged_in_the_run_stops_it_and_is_kept(cloud):
    cloud.plan_training(waits_at=2)
    output = cloud.folder / "output"
    with cloud.begin("watch") as process:
        try:
            while not (cloud.workdir / "checkpoints/step").exists():
                time.sleep(0.05)
            (output / "billed_seconds").write_text("1o0\n")
            said, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 1
    assert "the cost is not known" in said and "stopping, with a last checkpoint" in said
    assert "$(unknown) in all" in said
    assert cloud.nothing_left()
    before, since = (output / "billed_seconds").read_text().split()
    assert before == "1o0" and abs(int(since) - time.time()) < 600
    (output / "billed_seconds").write_text("100")
    assert cloud.launch("watch").returncode == 0


def test_a_delete_that_fails_is_tried_again(cloud):
    cloud.launch("create")
    cloud.plan(fail=[failing("queued-resources delete", times=2)])
    run = cloud.launch("delete")
    assert run.returncode == 0, run.stdout
    assert "try 2: ERROR: (gcloud) no" in run.stdout
    assert cloud.nothing_left()


def test_a_delete_that_goes_on_failing_is_no_secret(cloud):
    cloud.launch("create")
    cloud.plan(fail=[failing("queued-resources delete", says="ERROR: PERMISSION_DENIED")])
    run = cloud.launch("delete")
    assert run.returncode == 1
    assert "PERMISSION_DENIED" in run.stdout
    assert "run COULD NOT BE DELETED, and you may be PAYING $33.60 an hour" in run.stdout
    cloud.plan(fail=[])
    assert cloud.launch("delete").returncode == 0
    assert cloud.nothing_left()


def test_a_node_without_a_request_is_deleted_and_no_other_one(cloud):
    cloud.plan(nodes=["run", "run-2"])
    cloud.plan(answers={"tpu-vm list": "projects/p/locations/z/nodes/run"})
    run = cloud.launch("delete")
    assert run.returncode == 1, "the stand-in goes on to list it"
    assert [call[4] for call in cloud.calls("tpu-vm delete")] == ["run"]
    assert cloud.state()["nodes"] == ["run-2"]


NO_ROUTE = "ERROR: no route"


@pytest.mark.parametrize(
    ("lost", "told"),
    [
        (
            failing("--worker=1", "worker.sh setup", times=2, code=255),
            "worker 1 of run: no answer, or none to the end",
        ),
        (
            failing("--worker=1", "worker.sh train", times=1, code=255),
            "not all workers answer; trying again",
        ),
        (
            failing("storage cp", times=2, says=NO_ROUTE),
            "the code is not in the bucket yet (try 2 of 4)",
        ),
        (
            failing("queued-resources describe", times=2, says=NO_ROUTE),
            "no answer about run: is this machine on line? ERROR: no route",
        ),
        (
            failing("queued-resources create", times=1, says=NO_ROUTE),
            "asking again in 0.05 s (time 1 of 4)",
        ),
    ],
)
def test_a_connection_that_is_lost_for_a_while(cloud, lost, told):
    cloud.plan(fail=[lost])
    run = cloud.launch("watch")
    assert run.returncode == 0, run.stdout
    assert told in run.stdout
    assert run.stdout.count("is gone:") == 1  # nothing was made again
    assert len(cloud.starts("run-1")) == 1
    assert cloud.nothing_left()


def test_a_connection_lost_in_training(cloud):
    cloud.plan(fail=[failing("--worker=1", "worker.sh report", times=2, code=255)])
    run = cloud.launch("watch")
    assert run.returncode == 0, run.stdout
    assert "no answer from worker 1 of run; asking again in 0.05 s (2 of 4)" in run.stdout
    assert len(cloud.starts("run-1")) == 1
    assert cloud.nothing_left()


def test_training_that_runs_is_not_stopped_for_want_of_an_answer(cloud):
    cloud.plan_training(waits_at=2)
    for command in ("create", "setup", "train"):
        assert cloud.launch(command).returncode == 0
    cloud.plan(fail=[failing("--worker=1", "worker.sh report", times=1, code=255)])
    run = cloud.launch("train")
    assert run.returncode == 0
    assert "training is running already" in run.stdout
    assert not list(cloud.workdir.glob("saved-by-*"))
    assert cloud.launch("delete").returncode == 0


def test_a_call_that_hangs_is_ended(cloud):
    cloud.plan(fail=[failing("--worker=1", "worker.sh report", times=2, after=60)])
    run = cloud.launch("watch", CALL_SECONDS="3", CONNECTION_TRIES="2")
    assert run.returncode == 0, run.stdout
    assert cloud.nothing_left()


def test_a_worker_that_never_answers_again(cloud):
    cloud.plan_training(waits_at=2)
    for command in ("create", "setup", "train"):
        assert cloud.launch(command).returncode == 0
    cloud.plan(fail=[failing("--worker=1", "worker.sh report", times=2, code=255)])
    run = cloud.launch("watch", CONNECTION_TRIES="2")
    assert run.returncode == 0, run.stdout
    assert "no answer from worker 1 of run: the nodes are made again" in run.stdout
    assert len(cloud.calls("queued-resources create")) == 2
    assert json.loads((cloud.folder / "output/run/results.json").read_text())["began"] == 2
    assert cloud.nothing_left()


def test_this_machine_off_line_while_it_trains(cloud):
    """Longer than a worker may be silent: nothing is deleted for it."""
    cloud.plan_training(waits_at=2)
    with cloud.begin("watch") as watch:

        def wait_for(more: int, *words: str) -> None:
            wanted = len(cloud.calls(*words)) + more
            while len(cloud.calls(*words)) < wanted:
                assert watch.poll() is None, watch.stdout.read()
                time.sleep(0.02)

        wait_for(6, "worker.sh report")
        (cloud.folder / "off-line").touch()
        wait_for(9, "queued-resources describe")
        (cloud.folder / "off-line").unlink()
        wait_for(6, "worker.sh report")
        watch.terminate()
        told, _ = watch.communicate(timeout=60)
    assert "no answer about run: is this machine on line? ERROR: (gcloud) no route" in told
    assert "what has been started on run goes on" in told
    assert len(cloud.calls("queued-resources create")) == 1
    assert not cloud.calls("queued-resources delete")
    assert cloud.launch("delete").returncode == 0
    assert cloud.nothing_left()


def test_a_request_that_is_not_listed_yet(cloud):
    cloud.plan(fail=[failing("describe", times=4, says="ERROR: NOT_FOUND")])
    run = cloud.launch("watch")
    assert run.returncode == 0, run.stdout
    assert len(cloud.calls("queued-resources create")) == 1
    assert cloud.nothing_left()


def test_results_that_cannot_be_fetched_do_not_keep_nodes(cloud):
    cloud.plan(fail=[failing("storage rsync", "lrt_jax/runs")])
    run = cloud.launch("watch")
    assert run.returncode == 1
    assert "the run is whole in gs://my-bucket/lrt_jax/runs/run, but" in run.stdout
    assert (cloud.workdir / "results.json").exists()
    assert cloud.nothing_left()


def test_two_slices(cloud):
    cloud.plan(workers=1)
    run = cloud.launch("watch", SLICES="2", TYPE="v5litepod-8")
    assert run.returncode == 0, run.stdout
    [create] = cloud.calls("queued-resources create")
    assert {"--node-count=2", "--node-prefix=run"} <= set(create)
    for who in ("run-0-0", "run-1-0"):
        [start] = cloud.starts(who)
        assert start.endswith("--config.mesh.data=2")
    assert cloud.nothing_left()


def test_everything_can_be_given_twice(cloud):
    cloud.plan_training(waits_at=2)
    for command in ("create", "create", "setup", "setup", "train", "train"):
        run = cloud.launch(command)
        assert run.returncode == 0, run.stdout
    assert "training is running already on all 2 workers" in run.stdout
    assert len(cloud.calls("queued-resources create")) == 1
    assert len(cloud.starts("run-0")) == 1
    status = cloud.launch("status").stdout
    assert "worker 1 of run: running | step 2/4, began at 0" in status
    assert "run: ACTIVE; about $" in status
    assert "step 1/4" in cloud.launch("logs", "1").stdout
    for command in ("fetch", "fetch", "delete", "delete"):
        run = cloud.launch(command)
        assert run.returncode == 0, run.stdout
    assert "run: ABSENT" in cloud.launch("status").stdout
    assert cloud.nothing_left()


def test_how_training_ended_is_known_after_it_was_stopped(cloud):
    cloud.plan_training(waits_at=2)
    for command in ("create", "setup", "train"):
        assert cloud.launch(command).returncode == 0
    while "step 2/4" not in cloud.launch("logs").stdout:
        pass
    home = cloud.folder / "homes/run/0"
    for arguments, told in ((["stop", "10"], "lrt-stopped"), (["state"], "lrt-state ended 143")):
        command = ["bash", "lrt/code/launch/worker.sh", *arguments]
        done = subprocess.run(
            command, cwd=home, env=os.environ | {"HOME": str(home)}, capture_output=True, text=True
        )
        assert done.stdout.splitlines() == [told]
    assert cloud.launch("delete").returncode == 0
    assert cloud.nothing_left()


def test_a_request_is_not_looked_for_where_it_is_not(cloud):
    assert cloud.launch("create").returncode == 0
    asked = "PROJECT=my-project ZONE=us-east5-a TYPE=v5p-16 SLICES=1"
    for change in ({"ZONE": "us-west1-c"}, {"PROJECT": "another"}, {"TYPE": "v5p-8"}):
        run = cloud.launch("delete", **change)
        assert run.returncode == 1
        assert f"run was asked for with {asked}: give these" in run.stdout
    assert cloud.launch("check", ZONE="us-west1-c").returncode == 1, "it is not refused, but"
    assert cloud.launch("delete").returncode == 0
    assert cloud.nothing_left()
    assert cloud.launch("status", ZONE="us-west1-c").returncode == 0
