"""All targets."""

from .targets_core import TARGETS as CORE
from .targets_import import TARGETS as IMPORT
from .targets_job import TARGETS as JOB
from .targets_model import TARGETS as MODEL

TARGETS = (*CORE, *IMPORT, *MODEL, *JOB)
