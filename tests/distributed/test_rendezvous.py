"""Several nodes: what the environment says of them, and what it lacks."""

import subprocess
import sys

import pytest

from tests.support.project import assert_one_line_error, environment
from v4d.distributed.rendezvous import FIRST_PORT, PORTS, first_node, meeting
from v4d.errors import V4DError

COMMAND = ["v4d.training.worker", "--model", "v4d"]


@pytest.mark.parametrize(
    ("environ", "nodes", "endpoint"),
    [
        ({}, 1, "localhost:0"),
        ({"SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_NODELIST": "gpu7"}, 1, "localhost:0"),
        ({"V4D_NNODES": "2", "V4D_RENDEZVOUS": "a:1", "PET_NNODES": "3"}, 2, "a:1"),
        ({"PET_NNODES": "3", "PET_RDZV_ENDPOINT": "head:29400"}, 3, "head:29400"),
        (
            {"PET_NNODES": "3", "PET_MASTER_ADDR": "job-node-0-0.job", "PET_MASTER_PORT": "5"},
            3,
            "job-node-0-0.job:5",
        ),
    ],
)
def test_what_the_environment_says(environ, nodes, endpoint):
    found = meeting(environ, COMMAND)
    assert (found.nodes, found.endpoint) == (nodes, endpoint)


def test_slurm_s_nodes_meet_without_a_word():
    environ = {"SLURM_JOB_ID": "4711", "SLURM_STEP_NUM_NODES": "4", "SLURM_STEP_NODELIST": "gpu[03-05,9]"}
    found = meeting(environ, COMMAND)
    host, port = found.endpoint.split(":")
    assert host == "gpu03" and FIRST_PORT <= int(port) < FIRST_PORT + PORTS
    assert meeting(environ | {"SLURM_NODEID": "3"}, COMMAND) == found  # the same on every node
    assert meeting(environ | {"SLURM_JOB_ID": "4712"}, COMMAND).name != found.name
    assert meeting(environ, [*COMMAND, "--stage", "b"]).name != found.name


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu7", "gpu7"),
        ("a1,b2", "a1"),
        ("gpu[10,20]", "gpu10"),
        ("n[001-004]-ib,m1", "n001-ib"),
        ("r[1-2]n[3,7],x", "r1n3"),
    ],
)
def test_the_first_of_slurm_s_list(nodes, first):
    assert first_node(nodes) == first


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"V4D_NNODES": "2"}, "set V4D_RENDEZVOUS=HOST:PORT"),
        ({"V4D_NNODES": "two"}, "V4D_NNODES=two"),
        ({"SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_NODELIST": "[]"}, "no list of hosts"),
        (
            {"SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_NODELIST": "a,b", "SLURM_STEP_NUM_TASKS": "16"},
            "16 tasks on 2 nodes: start one a node",
        ),
    ],
)
def test_what_is_missing_is_one_line(environ, words):
    with pytest.raises(V4DError, match=words):
        meeting(environ, COMMAND)


def test_a_node_that_is_alone_says_what_it_lacks(tiny):
    env = environment() | {"V4D_NNODES": "2"}
    words = [sys.executable, "-m", "v4d.cli", "train", "--config", "config.yaml", "--model", "v4d"]
    done = subprocess.run(words, cwd=tiny, env=env, text=True, capture_output=True)
    assert_one_line_error(done, "2 nodes (V4D_NNODES): set V4D_RENDEZVOUS=HOST:PORT")
