"""`make demo`: the main job from end to end, on a private daemon and a private registry, cleaned up afterwards."""

import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.daemon import Daemon
from tests.registry import Registry, make_image


def say(text):
    print(f"\n== {text}", flush=True)


def main():
    with tempfile.TemporaryDirectory(prefix="holdd-demo-") as directory:
        directory = Path(directory)
        with Registry(directory / "registry") as registry, Daemon(directory) as daemon:
            reference = f"{registry.host}/demo/busybox:1.0"

            def ctr(*args):
                print(f"$ ctr {' '.join(args)}", flush=True)
                done = daemon.ctr(*args)
                print(done.stdout, end="", flush=True)
                return done

            say(f"an image made of this host's busybox, pushed to {registry.host}")
            make_image(directory / "image", registry, "demo/busybox:1.0")
            say("the daemon")
            ctr("version")
            ctr("plugins", "ls")
            say("pull")
            ctr("images", "pull", reference)
            ctr("images", "ls")
            ctr("snapshots", "tree")
            say("run one to its end")
            ctr("run", "--rm", reference, "hello", "echo", "hello from a container")
            say("run one on, look at it, end it")
            ctr("run", "-d", reference, "sleeper", "sleep", "1000")
            ctr("tasks", "ls")
            ctr("tasks", "exec", "--exec-id", "look", "sleeper", "ps")
            say("the daemon dies by kill -9; the container does not")
            daemon.kill()
            daemon.start()
            ctr("tasks", "ls")
            ctr("tasks", "kill", "--signal", "SIGKILL", "sleeper")
            daemon.ctr("tasks", "wait", "sleeper", check=False)
            daemon.ctr("tasks", "rm", "sleeper", check=False)
            ctr("containers", "rm", "sleeper")
            ctr("images", "rm", reference)
    left = [line for line in Path("/proc/self/mounts").read_text().splitlines() if "holdd-demo-" in line]
    say(f"cleaned up; mounts left: {len(left)}")
    return 1 if left else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as exc:
        sys.exit(f"demo: {exc}")
