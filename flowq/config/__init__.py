"""Settings: one table (`table`), and the values in force with their sources (`settings`)."""

from __future__ import annotations

from flowq.config.reference import settings_page
from flowq.config.settings import SETTINGS, Settings, ShownSetting
from flowq.config.table import TABLE, Setting
from flowq.core.masking import mask_url

__all__ = ["SETTINGS", "TABLE", "Setting", "Settings", "ShownSetting", "mask_url", "settings_page"]
