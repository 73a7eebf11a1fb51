import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for engine_lab and tls_lab
sys.path.insert(0, str(Path(__file__).parent.parent / "clients"))  # for building

from building import Builder, shared_directory


@pytest.fixture(scope="session")
def builder(tmp_path_factory):
    directory = tmp_path_factory.getbasetemp()
    return Builder(shared_directory(directory, os.environ.get("PYTEST_XDIST_WORKER")))
