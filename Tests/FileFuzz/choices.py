"""What a round is mounted with: all options of cardfs that change how it works, drawn from the round's own random numbers."""
import os

# Each line is one thing to vary, with its values; options that need each other stand together.
VARIED = [
    ["threads=1", "threads=2", "threads=4", "threads=8"],
    ["spin=50us", "spin=1ms"],
    ["direct_threshold=0", "direct_threshold=4096", "direct_threshold=1M", "direct_threshold=1G"],
    ["gather=0", "gather=1ms", "gather=100ms"],
    ["tx_timeout=200ms", "tx_timeout=1s", "tx_timeout=3s"],
    ["rx_timeout=300ms", "rx_timeout=2s"],
    ["linger=0", "linger=100ms", "linger=1s"],
    ["dma_bits=24", "dma_bits=24,map_registers=4", "dma_bits=26,map_registers=64", "dma_bits=30,map_registers=1024"],
    ["scatter_gather=0", "scatter_gather=1"],
    ["interrupts=msix", "interrupts=msi", "interrupts=intx"],
    ["receiver=4096", "receiver=1M"],
    ["expert"],
    ["allow_bar2_writes"],
    ["mode=600", "mode=444", "uid=12345,gid=12345"],
    ["nodev,noexec", "nosuid,noatime"],
]
FOR_ROOT = [["allow_other"], ["latency=200"], ["sync"]]
CHANCE = 0.3


def options(chance):
    """The words of -o for one round, and whether the mount may be written."""
    words = []
    for group in VARIED + (FOR_ROOT if os.geteuid() == 0 else []):
        chosen, value = chance.random(), chance.choice(group)
        if chosen < CHANCE:
            words += value.split(",")
    # A reload that nobody answers must not use up the round; a write is not to wait for ever behind a card that hangs.
    words.append("reload_timeout=1s")
    if not any(word.startswith("tx_timeout") for word in words):
        words.append("tx_timeout=2s")
    if chance.random() < 0.75:
        words.append("verify")
    writable = chance.random() > 0.06
    if not writable:
        words.append("ro")
    return words, writable


def stream(chance, words):
    """An engine that the card has, and a framing."""
    engines = ["common", "system"] + (["sg"] if "scatter_gather=0" not in words else [])
    return chance.choice(engines), chance.choice(["stream", "packet"])
