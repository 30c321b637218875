"""document + base model + recipe -> memory, as a run of typed events."""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from threading import Event as StopFlag
from typing import Any

import torch

from lift.adapters.lora import LoraAdapter
from lift.answering import Answerer
from lift.batches import pack, shuffled_batches
from lift.documents.document import Document
from lift.errors import BudgetError, DocumentError
from lift.memories.library import Library
from lift.memories.memory import Memory, MemoryDraft
from lift.models.base_model import BaseModel
from lift.recall import RecallReport, probe_recall
from lift.recipes.recipe import Recipe
from lift.sentences import Sentence, detect_language, split_sentences
from lift.tasks.rules import generate_tasks
from lift.tasks.task import Task
from lift.training.examples import Curriculum
from lift.training.loop import Step, batch_loss, train
