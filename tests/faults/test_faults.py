"""Thousands of faults: each is refused, recovered from or harmless, and none is silent."""

import os
from itertools import chain

import pytest

from faults import files, full_disks, hostile, inputs, killed, pictures, servers
from faults.common import SILENT, show, try_all, write_csv

pytestmark = pytest.mark.slow


def test_no_fault_is_silent(tmp_path, capsys):
    kinds = (files, full_disks, hostile, pictures, inputs, servers, killed)
    findings = try_all(chain.from_iterable(kind.faults(tmp_path) for kind in kinds))
    with capsys.disabled():
        print("", *show(findings), sep="\n")
    if path := os.environ.get("CAPKIT_FAULTS_CSV"):
        write_csv(path, findings)
    assert len(findings) >= 7000
    assert not [finding for finding in findings if finding.outcome == SILENT]
