import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # for clients and building
sys.path.insert(0, str(Path(__file__).parent.parent / "engine"))  # for engine_lab
