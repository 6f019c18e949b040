"""``docs/security.md`` lists every setting that bounds something, with its default."""

import re
from pathlib import Path

from service.settings.schema import Settings
from service.settings.settings_table import rows_of

PAGE = Path(__file__).parent.parent / "docs" / "security.md"
NO_LIMITS = {
    *("volume", "model", "run", "host", "port", "engine", "http_workers", "device", "dtype"),
    *("backend", "threads", "switch_interval_s", "reuse_prefixes", "sampling_defaults"),
    *("speculation", "poll_interval_s", "verify_hashes", "secrets_dir", "api_keys", "admin_key"),
    *("guard_metrics", "cors_origins", "max_bpb_regression", "refuse_memorising"),
    *("refuse_degenerate", "otlp_endpoint", "log_prompts", "profile", "playground_url"),
    *("log_level", "log_format"),
}
"""Settings that say what is done, not how much of it."""


def test_every_limit_is_listed_with_its_default() -> None:
    listed = dict(re.findall(r"^\| `(\w+)` \| (\S+) \|", PAGE.read_text("utf-8"), re.MULTILINE))
    defaults = {row[0]: row[2] for row in rows_of([])}
    limits = {name: defaults[name] for name in Settings.model_fields if name not in NO_LIMITS}
    assert listed == limits, "list it under Limits, or among NO_LIMITS if it bounds nothing"


def test_the_page_names_what_it_says_of_keys_and_trust() -> None:
    page = PAGE.read_text("utf-8")
    for name in ("api_keys", "admin_key", "guard_metrics", "verify_hashes", "reuse_prefixes"):
        assert f"`{name}`" in page


def test_readers_find_the_page() -> None:
    root = PAGE.parent.parent
    assert "docs/security.md" in (root / "README.md").read_text("utf-8")
    assert "security.md" in (root / "docs" / "operations.md").read_text("utf-8")
