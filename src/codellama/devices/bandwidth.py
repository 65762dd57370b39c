"""How fast memory is: what makers publish of their GPUs, and what a second of reading shows of this machine.

Bandwidths are in bytes a second.
"""

from __future__ import annotations

_PUBLISHED_GB = {  # data sheets of NVIDIA, AMD and Apple, in GB/s
    "H200": 4800, "H100 PCIe": 2039, "H100 NVL": 3938, "H100": 3350, "GH200": 4000, "B200": 8000,
    "A100-SXM4-80GB": 2039, "A100 80GB": 1935, "A100": 1555, "L40S": 864, "L40": 864, "L4": 300,
    "A40": 696, "A10": 600, "A30": 933, "T4": 320, "V100": 900,
    "RTX PRO 6000": 1792, "RTX 6000 Ada": 960, "RTX A6000": 768, "RTX A5000": 768, "RTX A4000": 448,
    "RTX 5090": 1792, "RTX 5080": 960, "RTX 5070 Ti": 896, "RTX 5070": 672, "RTX 5060 Ti": 448,
    "RTX 4090": 1008, "RTX 4080": 717, "RTX 4070 Ti SUPER": 672, "RTX 4070": 504, "RTX 4060 Ti": 288,
    "RTX 4060": 272, "RTX 3090 Ti": 1008, "RTX 3090": 936, "RTX 3080 Ti": 912, "RTX 3080": 760,
    "RTX 3070": 448, "RTX 3060": 360, "RTX 2080 Ti": 616, "P40": 347, "P100": 732,
    "MI300X": 5300, "MI250": 3277, "MI210": 1638, "RX 7900 XTX": 960, "RX 7900 XT": 800,
    "RX 6900 XT": 512, "RX 6800": 512,
    "M1 Ultra": 800, "M1 Max": 400, "M1 Pro": 200, "Apple M1": 68,
    "M2 Ultra": 800, "M2 Max": 400, "M2 Pro": 200, "Apple M2": 100,
    "M3 Ultra": 819, "M3 Max": 400, "M3 Pro": 150, "Apple M3": 100,
    "M4 Max": 546, "M4 Pro": 273, "Apple M4": 120,
}  # fmt: skip


def known_bandwidth(description: str) -> float:
    """What the maker says of a GPU with this description; 0 for one that is not known here."""
    words = description.replace("GeForce ", "").replace("Quadro ", "")
    found = [name for name in _PUBLISHED_GB if name.lower() in words.lower()]
    return _PUBLISHED_GB[max(found, key=len)] * 1e9 if found else 0.0
