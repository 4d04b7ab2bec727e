"""Prints which version of each function marked FASTLOSS_SIMD the loaded kernels call, as JSON."""

import ctypes
import json
import re
import subprocess
from pathlib import Path

import fastloss

binary = Path(fastloss.__file__).with_name("_C.so")


def output(*argv: str) -> str:
    return subprocess.run([*argv, binary], capture_output=True, check=True, text=True).stdout


# The address of a function that is chosen at load time is in a slot with this kind of relocation.
slots = [
    int(x, 16) for x in re.findall(r"^(\w+) .*R_X86_64_IRELATIV", output("readelf", "-rW"), re.M)
]
symbols = re.findall(r"^(\w+) [tTwWi] (.*)$", output("nm"), re.M)
maps = Path("/proc/self/maps").read_text()
base = int(re.search(rf"^(\w+)-\S+ \S+ 0+ .*{re.escape(str(binary))}$", maps, re.M)[1], 16)
names = {base + int(address, 16): name for address, name in symbols if "resolver" not in name}
chosen = [names[ctypes.c_uint64.from_address(base + slot).value] for slot in slots]
print(json.dumps(chosen))
