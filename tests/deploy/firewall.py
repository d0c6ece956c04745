"""Tests of `wharfd firewall` in networks of their own: a pod with two bridges, three steps, and a world behind its uplink. Each
attack succeeds without the rules first."""
import ctypes
import errno
import os
import pathlib
import select
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests/lib"))
import report  # noqa: E402

WHARFD = os.path.join(os.environ["WHARF_BIN_DIR"], "wharfd")
LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000
ALL_PROTOCOLS = socket.htons(3)

# The pod's bridges, and the steps on them.
STEPS = {"one": ("wharf0", "198.18.0.2"), "two": ("wharf0", "198.18.0.3"), "three": ("wharf1", "198.18.4.2")}
INTERNET, NODE, API, SERVICE, SITE = "9.9.9.9", "203.0.113.9", "10.96.0.1", "10.96.0.77", "10.20.0.5"
METADATA, AZURE, RESOLVER, NEAR_RESOLVER = "169.254.169.254", "168.63.129.16", "10.96.0.10", "169.254.20.10"
GATEWAY = "10.214.0.1"
WORLD = (INTERNET, NODE, API, SERVICE, SITE, METADATA, AZURE, RESOLVER, NEAR_RESOLVER)
# As the chart gives them.
GROUP = 64279
FLAGS = (f"--refuse={NODE}", f"--refuse={API}", f"--group={GROUP}")


def run(*command, **options):
    return subprocess.run([*map(str, command)], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, **options)


class Network:
    """A network namespace, and one of mounts, which end with this."""

    def __init__(self):
        self.holder = subprocess.Popen(["unshare", "--net", "--mount", "--", "sh", "-c", "echo; exec sleep 600"], stdout=subprocess.PIPE)
        self.holder.stdout.readline()
        self.sh("ip link set lo up")

    def command(self, *command):
        return run("nsenter", f"--target={self.holder.pid}", "--net", "--mount", "--", *command)

    def sh(self, script):
        done = self.command("sh", "-ec", script)
        assert done.returncode == 0, (script, done.stdout)

    def open(self, *kind, group=0):
        """A socket of this network, and of a process of this group."""
        made = []

        def enter():
            with open(f"/proc/{self.holder.pid}/ns/net") as namespace:
                if LIBC.setns(namespace.fileno(), CLONE_NEWNET):
                    made.append(OSError(ctypes.get_errno(), "setns"))
                    return
            LIBC.setfsgid(group)
            made.append(socket.socket(*kind))

        # A thread has a network and a group of its own.
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        (result,) = made
        if isinstance(result, OSError):
            raise result
        return result

    def connect(self, to, port=80, group=0):
        """`reached`, `refused` (at once, by a message of ICMP) or `silent`."""
        with self.open(socket.AF_INET, socket.SOCK_STREAM, group=group) as client:
            client.settimeout(2)
            try:
                client.connect((to, port))
                return "reached"
            except TimeoutError:
                return "silent"
            except OSError as error:
                if error.errno == errno.EHOSTUNREACH:
                    return "refused"
                raise

    def frames(self, interface):
        """A socket that sends and gets all of an interface's frames."""
        made = self.open(socket.AF_PACKET, socket.SOCK_RAW, ALL_PROTOCOLS)
        made.bind((interface, 3))
        return made

    def end(self):
        self.holder.kill()
        self.holder.wait()
        self.holder.stdout.close()


def gets(receiver, token, seconds):
    """Whether a frame with this text comes."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if select.select([receiver], [], [], left)[0] and token in receiver.recv(65535):
            return True
    return False


def packet(source, to, flags, token):
    """A packet of TCP that begins nothing."""
    def sum16(data):
        total = sum(struct.unpack(f"!{len(data) // 2}H", data))
        total = (total & 0xffff) + (total >> 16)
        return ~(total + (total >> 16)) & 0xffff

    source, to = socket.inet_aton(source), socket.inet_aton(to)
    def tcp(check):
        return struct.pack("!HHIIBBHHH", 4444, 5555, 1, 1, 5 << 4, flags, 1024, check, 0) + token
    segment = tcp(sum16(source + to + struct.pack("!BBH", 0, 6, len(tcp(0))) + tcp(0)))
    return struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(segment), 1, 0, 64, 6, 0, source, to) + segment


class Firewall(unittest.TestCase):
    def setUp(self):
        self.networks = {}
        for name in ("world", "pod", *STEPS):
            self.networks[name] = Network()
            self.addCleanup(self.networks[name].end)
        self.world, self.pod, self.one, self.two, self.three = self.networks.values()
        ids = {name: network.holder.pid for name, network in self.networks.items()}
        self.pod.sh("echo 1 >/proc/sys/net/ipv4/ip_forward")
        self.pod.sh(f"ip link add eth0 type veth peer name eth0 netns {ids['world']}; ip link set eth0 up; ip address add 10.214.0.2/24 dev eth0")
        self.world.sh(f"ip link set eth0 up; ip address add {GATEWAY}/24 dev eth0; ip route add 198.18.0.0/15 via 10.214.0.2")
        self.world.sh(";".join(f"ip address add {address}/32 dev lo" for address in WORLD))
        self.pod.sh(f"ip route add default via {GATEWAY}")
        for index in 0, 1:
            self.pod.sh(f"ip link add wharf{index} type bridge; ip address add 198.18.{4 * index}.1/22 dev wharf{index}; ip link set wharf{index} up")
        for name, (bridge, address) in STEPS.items():
            self.pod.sh(f"ip link add {name} type veth peer name eth0 netns {ids[name]}; ip link set {name} master {bridge} up")
            gateway = address.rpartition(".")[0] + ".1"
            self.networks[name].sh(f"ip link set eth0 up; ip address add {address}/22 dev eth0; ip route add default via {gateway}")
        self.dir = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        (self.dir / "resolv.conf").write_text(f"nameserver {RESOLVER}\nnameserver {NEAR_RESOLVER}\n")
        self.pod.sh(f"mount --bind {self.dir / 'resolv.conf'} /etc/resolv.conf")
        for network in self.networks.values():
            for port in 53, 80, 443:
                server = network.open(socket.AF_INET, socket.SOCK_STREAM)
                self.addCleanup(server.close)
                server.bind(("0.0.0.0", port))
                server.listen(64)

    def firewall(self, *flags, status=0):
        done = self.pod.command(WHARFD, "firewall", *FLAGS, *flags)
        self.assertEqual(done.returncode, status, done.stdout)
        return done.stdout

    def finds(self, network, expected, group=0):
        for (to, port), outcome in expected.items():
            with self.subTest(to=to, port=port):
                self.assertEqual(network.connect(to, port, group), outcome)

    def test_steps_reach_the_internet_and_what_is_granted(self):
        addresses = [(to, 80) for to in (*WORLD, GATEWAY, STEPS["two"][1], STEPS["three"][1], "198.18.0.1", "10.214.0.2")]
        self.finds(self.one, dict.fromkeys(addresses, "reached"))
        self.firewall(f"--allow={SITE}:80-90")
        refused = dict.fromkeys(addresses, "refused") | {(to, 443): "refused" for to in (SITE, RESOLVER)}
        open_to = [(INTERNET, 80), (INTERNET, 443), (SITE, 80), (RESOLVER, 53), (NEAR_RESOLVER, 53)]
        self.finds(self.one, refused | dict.fromkeys(open_to, "reached"))

    def test_the_engines_reach_what_steps_do(self):
        """As they try when `ADD` follows a redirect."""
        closed = [(to, 80) for to in (METADATA, AZURE, RESOLVER, NEAR_RESOLVER, NODE, API, SERVICE, SITE, GATEWAY, STEPS["one"][1])]
        self.finds(self.pod, dict.fromkeys(closed, "reached"))
        self.firewall()
        open_to = [(INTERNET, 443), (RESOLVER, 53), (NEAR_RESOLVER, 53), ("127.0.0.1", 80), ("10.214.0.2", 80)]
        self.finds(self.pod, dict.fromkeys(closed, "refused") | dict.fromkeys(open_to, "reached"))
        # The node may ask the pod, and is answered.
        self.world.sh(f"ip route add 10.214.0.2/32 dev eth0 src {NODE}")
        self.assertEqual(self.world.connect("10.214.0.2"), "reached")
        self.firewall(f"--allow={METADATA}:80,{NODE}:80")
        self.finds(self.pod, {(METADATA, 80): "reached", (METADATA, 443): "refused", (NODE, 80): "reached", (NODE, 443): "refused"})

    def test_wharfd_reaches_what_is_neither_metadata_nor_the_node(self):
        self.firewall()
        closed = [(to, 80) for to in (METADATA, AZURE, NEAR_RESOLVER, NODE, API)]
        open_to = [(INTERNET, 443), (SERVICE, 80), (SITE, 80), (RESOLVER, 53), (NEAR_RESOLVER, 53), ("127.0.0.1", 80)]
        self.finds(self.pod, dict.fromkeys(closed, "refused") | dict.fromkeys(open_to, "reached"), GROUP)
        self.finds(self.pod, {(SERVICE, 80): "refused"}, GROUP + 1)

    def test_no_frame_passes_from_step_to_step(self):
        sender, receiver, bridge = self.one.frames("eth0"), self.two.frames("eth0"), self.pod.frames("wharf0")
        for made in sender, receiver, bridge:
            self.addCleanup(made.close)
        source = sender.getsockname()[4]
        (mac,) = [line.split()[1] for line in self.two.command("ip", "link", "show", "eth0").stdout.splitlines() if "link/ether" in line]
        ip = packet(STEPS["one"][1], STEPS["two"][1], 2, b"")
        arp = struct.pack("!HHBBH6s4s6s4s", 1, 0x800, 6, 4, 2, source, socket.inet_aton("198.18.0.1"), source, socket.inet_aton("198.18.0.1"))
        kinds = {
            "a VLAN's tag": b"\x81\x00\x00\x05\x08\x00" + ip,
            "a provider's tag": b"\x88\xa8\x00\x05\x08\x00" + ip,
            "an odd type": b"\x88\xb5",
            "a length instead of a type": b"\x00\x40",
            "ARP": b"\x08\x06" + arp,
            "PPPoE": b"\x88\x64" + ip,
        }

        def passes(to, kind, frame):
            token = os.urandom(16)
            sender.send(to + source + frame + token + bytes(64))
            if to == b"\xff" * 6:
                # The bridge gives it to its ports before it gets it itself.
                self.assertTrue(gets(bridge, token, 5), kind)
            return gets(receiver, token, 0.3)

        for to in bytes.fromhex(mac.replace(":", "")), b"\xff" * 6:
            for kind, frame in kinds.items():
                self.assertTrue(passes(to, kind, frame), kind)
        self.firewall()
        for to in bytes.fromhex(mac.replace(":", "")), b"\xff" * 6:
            for kind, frame in kinds.items():
                self.assertFalse(passes(to, kind, frame), kind)

    def test_packets_of_no_connection_are_dropped(self):
        def passes(sender, source, receiver, to, flags):
            token = os.urandom(16)
            with sender.open(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw, receiver.frames("eth0") as frames:
                raw.sendto(packet(source, to, flags, token), (to, 0))
                # A packet that passes comes after it.
                self.assertEqual(self.one.connect(INTERNET), "reached")
                return gets(frames, token, 0.3)

        step = STEPS["one"][1]
        syn, syn_ack, rst, ack, all_flags = 2, 0x12, 4, 0x10, 0x3f
        cases = [(self.world, INTERNET, self.one, step, flags) for flags in (syn, syn_ack, rst, ack, all_flags)]
        cases += [(self.one, step, self.world, INTERNET, flags) for flags in (syn_ack, rst, all_flags)]
        for case in cases:
            self.assertTrue(passes(*case), case[1:])
        self.firewall()
        for case in cases:
            self.assertFalse(passes(*case), case[1:])

    def test_a_thousand_grants_are_set(self):
        grants = [f"10.30.{number // 256}.{number % 256}:80-443" for number in range(1000)]
        self.firewall("--allow=" + ",".join([*grants, f"{SITE}:80"]), "--refuse=" + ",".join(f"9.8.{number}.0/24" for number in range(256)))
        self.finds(self.one, {(SITE, 80): "reached", (SITE, 443): "refused", (INTERNET, 80): "reached", ("9.8.255.1", 80): "refused"})

    def test_a_wide_grant_needs_the_clusters_networks(self):
        self.assertEqual(self.one.connect(SERVICE), "reached")
        for grant in "10.0.0.0/8", "10.64.0.0/10:80", "fd00::/48":
            said = self.firewall(f"--allow={grant}", status=1)
            self.assertIn("name the networks of its nodes, pods and Services with --cluster", said)
            self.assertIn(grant.partition(":80")[0], said)
        # Nothing was set.
        self.assertEqual(self.one.connect(SERVICE), "reached")
        self.firewall("--allow=10.0.0.0/8", "--cluster=10.96.0.0/12,10.244.0.0/16")
        self.finds(self.one, {(SITE, 80): "reached", (SERVICE, 80): "refused", (API, 80): "refused", (RESOLVER, 53): "reached"})
        self.firewall("--allow=10.0.0.0/8", f"--allow={SERVICE}", "--cluster=10.96.0.0/12")
        self.finds(self.one, {(SITE, 80): "reached", (SERVICE, 80): "reached", (API, 80): "refused"})
        self.firewall("--allow=0.0.0.0/0,10.20.0.0/24")
        self.finds(self.one, {(SITE, 80): "reached", (SERVICE, 80): "refused", (METADATA, 80): "refused"})

    def test_a_bridge_that_meets_another_network_is_refused(self):
        for bridges, met in (
                ("10.214.0.129/25", "10.214.0.0/24 of the pod's own network"),
                ("10.96.0.1/16", f"the name server {RESOLVER}"),
                ("198.18.0.1/22,198.18.2.1/24", "the bridge 198.18.0.1/22")):
            said = self.firewall(f"--bridge={bridges}", status=1)
            self.assertIn(f"--bridge {bridges.split(',')[-1]} meets {met}", said)
        self.firewall("--bridge=198.18.0.1/22,198.18.4.1/22")

    def test_it_tells_wharfd_that_the_rules_are_set(self):
        record = self.dir / "set"
        self.firewall(f"--record={record}")
        self.assertTrue(record.exists())
        self.assertIn(f"cannot change `{self.dir}/none/set`", self.firewall(f"--record={self.dir}/none/set", status=1))
        # Until it fails.
        self.pod.sh("ip route delete default")
        self.firewall(f"--record={record}", status=1)
        self.assertFalse(record.exists())

    def test_it_says_what_it_lacks(self):
        done = self.pod.command("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", WHARFD, "firewall")
        self.assertEqual((done.returncode, "lacks the capability NET_ADMIN" in done.stdout), (1, True), done.stdout)
        self.pod.sh("ip route delete default")
        self.assertIn("no default route", self.firewall(status=1))


report.main("firewall")
