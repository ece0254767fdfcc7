"""PeRL as in the paper (section 4), for Qwen2.5-VL-3B on a slice of 16 TPU v6e.

Command:   python -m perl_jax.train --config=configs/perl_3b.py --config.data.directory=DATA --workdir=runs/perl_3b
Hardware:  v6e:4x4. Planned by python -m perl_jax.plan --config=configs/perl_3b.py --topology=v6e:4x4 (compiled on
           2026-11-22): 76% of a device's memory, most of it in decoding; 23 s a step by roofline, at 40% of the peak.
           A v5e:4x4 is too small: it would need 1.28x its memory, or 1.19x with mesh.tensor=2
Result:    not run
"""

from configs import base


def get_config():
    config = base.get_config()
    config.model = "Qwen/Qwen2.5-VL-3B-Instruct"
    return config
