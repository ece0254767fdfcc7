"""Renders a chat template under limits: `python models/template_trial.py SECONDS BYTES < TEMPLATE` prints the length.

A script by itself, without the rest of `models`, so that it starts in a tenth of a second. A template that needs more
than its time is killed by the system, even within one operation such as 9 ** 9 ** 9. For one that needs more than its
memory it prints "memory".
"""

import resource
import sys

import jinja2
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

MESSAGES = [
    {"role": "system", "content": "Look."},
    {"role": "user", "content": [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "Which one?"}]},
    {"role": "assistant", "content": "The second."},
    {"role": "user", "content": "Why?"},
]


class Generation(Extension):
    """The tag {% generation %} of transformers."""

    tags = frozenset({"generation"})

    def parse(self, parser):
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def main() -> None:
    seconds, memory = map(int, sys.argv[1:])
    for kind, most in ((resource.RLIMIT_CPU, seconds), (resource.RLIMIT_DATA, memory)):
        _, hard = resource.getrlimit(kind)
        resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )

    def refuse(message):
        raise jinja2.TemplateError(message)

    environment.globals |= {"raise_exception": refuse, "strftime_now": str}
    try:
        template = environment.from_string(sys.stdin.read())
        print(len(template.render(messages=MESSAGES, add_generation_prompt=True, tools=None, documents=None)))
    except MemoryError:
        print("memory")
    except Exception as error:  # such as roles that it refuses: told where a prompt is made
        print(0, error)


if __name__ == "__main__":
    main()
