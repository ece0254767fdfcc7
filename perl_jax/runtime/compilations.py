"""Counts compilations and logs their causes; in steady state there should be none."""

import logging
import re
import textwrap
import threading

import jax

logger = logging.getLogger(__name__)

DETAIL = "detail"  # an attribute of log records that `cli` shows with `--verbose` only

# JAX's loggers of cache misses.
MISSES = ("jax._src.interpreters.partial_eval", "jax._src.compiler", "jax._src.compilation_cache")
LEAST = 0.1  # seconds from which a compilation is logged
SHOWN = 5.0  # seconds from which one is told without `--verbose`, too
PROGRAMS = {  # jitted function: what it does
    "_decode": "decoding",
    "prefill": "prefill",
    "image_tokens": "the vision tower",
    "embeddings": "embeddings",
    "_embed": "the update's images",
    "_add_pulled": "the update's images",
    "_add_rows": "the update",
    "_apply": "the optimizer",
    "_logprobs": "log-probs",
}


class Compilations:
    """Counts programs compiled (or read from the persistent cache) in its context: `with Compilations() as compiled:`.

    `count` and `seconds` accumulate until `take` resets them. Compilations that recompile a known function are logged
    with what differs, as details; slow ones in a short line.
    """

    def __enter__(self) -> "Compilations":
        self.count, self.seconds = 0, 0.0
        self._reasons = {}  # function: JAX's explanation of its last miss
        self._lock = threading.Lock()
        self._levels = []
        self._before = jax.config.jax_explain_cache_misses
        jax.config.update("jax_explain_cache_misses", True)
        for name in MISSES:
            jax_logger = logging.getLogger(name)
            self._levels.append(jax_logger.level)
            jax_logger.setLevel(logging.WARNING)
            jax_logger.addFilter(self._explain)
        jax.monitoring.register_event_duration_secs_listener(self._hear)
        return self

    def __exit__(self, *_) -> None:
        jax.monitoring.unregister_event_duration_listener(self._hear)
        for name, level in zip(MISSES, self._levels):
            logging.getLogger(name).removeFilter(self._explain)
            logging.getLogger(name).setLevel(level)
        jax.config.update("jax_explain_cache_misses", self._before)

    def take(self) -> dict[str, float]:
        """`compile/count` and `compile/seconds` since the last call."""
        with self._lock:
            taken = {"compile/count": self.count, "compile/seconds": self.seconds}
            self.count, self.seconds = 0, 0.0
        return taken

    def _hear(self, event: str, seconds: float, fun_name: str = "", **_) -> None:
        if event != "/jax/core/compile/backend_compile_duration":
            return
        name = fun_name.removeprefix("jit(").removesuffix(")")
        with self._lock:
            self.count += 1
            self.seconds += seconds
            reason = self._reasons.pop(name, "")
        if seconds > LEAST or reason:
            logger.info("compiled %s in %.1f s%s", name, seconds, f": {reason}" if reason else "", extra={DETAIL: True})
        if seconds > SHOWN:
            logger.info("compiled a program of %s: %.0f s", PROGRAMS.get(name, name), seconds)

    def _explain(self, record: logging.LogRecord) -> bool:
        """A log filter that stores JAX's cache miss explanations and passes other records."""
        text = record.getMessage()
        if not re.search("CACHE MISS|persistent (compilation )?cache", text):
            return True
        name = re.search(r"\n\s+for (\S+)", text)
        if name and (differs := re.findall(r"\* at (.+)", text)):
            with self._lock:
                lines = [textwrap.shorten(difference, 200, placeholder=" ...") for difference in differs[:4]]
                self._reasons[name[1]] = "; ".join(lines) + "; ..." * (len(differs) > 4)
        return False
