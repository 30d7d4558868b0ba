"""The installed package under a real systemd, through everything that an administrator and bad days do to a service."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.container import AT_STOP, NEEDS, Ran, package, run_in_container
from tests.seaweed import ACCESS_KEY, BUCKET, SECRET_KEY, weed_path

pytestmark = NEEDS

CONFIG = """
decide_interval = "0.5s"

[[tiers]]
name = "flash"
root = "/files/flash"
rank = 0

[[tiers]]
name = "hdd"
root = "/files/hdd"
rank = 1
write_rate = "RATE"
MORE
[[datasets]]
name = "data"
path = "/files/flash/data"

[[datasets]]
name = "archive"
path = "/files/hdd/archive"
ARCHIVE
[defaults]
settle_after = "1s"
migrate_after = "never"
release_after = "never"

[mover]
busy_io = "off"
release_wait = "1s"

[observe]
flush_interval = "0.2s"

[api]
socket_mode = "0660"
"""
CLOUD = f"""
[[tiers]]
name = "cloud"
kind = "s3"
rank = 2
bucket = "{BUCKET}"
endpoint = "http://127.0.0.1:8333"
credentials = "systemd:s3"
"""
TO_CLOUD = '[datasets.policy]\nmigrate_after = { cloud = "1s" }\n'
UNUSABLE = f"""
listen = "192.0.2.1:8920"
[api.tokens]
"{"0" * 64}" = "read"
"""
"""Goes into [api]: nothing is wrong with it as it stands, but no machine here has that address."""

_CAP_FOWNER, _CAP_SETUID, _CAP_NET_ADMIN, _CAP_SYS_MODULE, _CAP_SYS_BOOT = 3, 7, 12, 16, 22
"""Source: linux/capability.h."""

PROBE = r"""
# In the sandbox of the service and, to compare, outside of it: what can be done?
try() {
    name=$1; shift
    if "$@" >/dev/null 2>&1; then echo "$where-$name=allowed"; else echo "$where-$name=refused"; fi
}
exec >>/out/facts 2>/dev/null
try etc bash -c 'echo x >/etc/tierd-probe'
try usr bash -c 'echo x >/usr/tierd-probe'
try tiers bash -c 'echo x >/files/tierd-probe'
try namespace unshare --net true
try packets python3 -c 'import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)'
try writable-code python3 -c 'import mmap; mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC)'
try host-name hostname tierd-probe
try fanotify /opt/tierd/bin/python -c 'import ctypes, sys; sys.exit(ctypes.CDLL(None).fanotify_init(0x200, 0) < 0)'
echo "$where-privileges=$(awk '/^NoNewPrivs|^Seccomp:/ {print $2}' /proc/self/status | paste -sd,)"
echo "$where-capabilities=$(awk '/^CapBnd/ {print $2}' /proc/self/status)"
exit 0
"""

STEPS = r"""
export PYTHONDONTWRITEBYTECODE=1
in_journal() { journalctl -u tierd -o cat --no-pager | grep -qF -- "$1"; }
restarts() { systemctl show tierd -p NRestarts --value; }
policy() { ask /v1/datasets/data policy.migrate_after_s; }

# --- installed, configured, started
v1=/files/flash/data/v1
mkdir -p $v1/sub /files/flash/data/v2 /files/hdd/archive/a1
for n in 1 2 3; do head -c 16000000 /dev/urandom >$v1/sub/shard$n; done
echo small >$v1/label; echo two >/files/flash/data/v2/file; echo old >/files/hdd/archive/a1/file
v1_sum=$(sums $v1)
dpkg -i /out/tierd.deb >&2; say install $?
cp /out/slow.toml /etc/tierd/config.toml
mkdir /etc/systemd/system/tierd.service.d
cp /out/test.conf /etc/systemd/system/tierd.service.d/
install -m 0600 /out/s3-keys /root/s3-keys
systemctl daemon-reload
systemctl enable --now tierd; say start $?
tierd status --json >/out/status.json; say answers-at-once $?
say notified "$(systemctl show tierd -p Type -p ActiveState -p SubState --value | paste -sd,)"
say status-text "$(systemctl show tierd -p StatusText --value)"
say security "$(systemd-analyze security --no-pager --threshold=40 tierd.service >/out/security 2>&1; echo $?)"
where=outside bash /out/probe
say daemon-privileges "$(awk '/^NoNewPrivs|^Seccomp:/ {print $2}' "/proc/$(pid)/status" | paste -sd,)"

# --- who may connect
say socket "$(stat -c %a,%U,%G /run/tierd/tierd.sock)"
useradd -M stranger; useradd -M -G tierd trainer
runuser -u stranger -- tierd status >&2; say stranger $?
runuser -u trainer -- tierd status >&2; say trainer $?

# --- who reads is seen
until_true tierd ls data/v2 >&2
seen() {
    runuser -u trainer -- bash -c 'read -r line <"$0"; sleep 0.3' /files/flash/data/v2/file
    tierd accesses data/v2 --json | tee /out/accesses.json | grep -q "\"uid\": $(id -u trainer)"
}
until_true seen; say reader-seen $?

# --- killed in mid-transfer
until_true begin data/v1; id=$(begun)
until_true copying; say killed-while-copying $?
old=$(pid); kill -9 "$old"
until_true is_new && until_true answers; say after-kill $?
until_true copying; say goes-on-after-kill $?

# --- stopped in mid-transfer
since=$(date +%s); systemctl stop tierd; say stop-seconds $(($(date +%s) - since))
say stop-result "$(systemctl show tierd -p Result -p ActiveState --value | paste -sd,)"
systemctl start tierd; until_true copying; say goes-on-after-stop $?

# --- bad configurations are refused
echo 'this is not [TOML' >/etc/tierd/config.toml
systemctl reload tierd; say reload-exit $?
until_true in_journal 'is refused'; say bad-is-told $?
answers && say bad-active "$(systemctl is-active tierd)"
old=$(pid); cp /out/unusable.toml /etc/tierd/config.toml
systemctl reload tierd
until_true in_journal 'cannot be run'; say unusable-is-told $?
until_true answers; say unusable-active "$(systemctl is-active tierd)"
say unusable-process "$([ "$old" = "$(pid)" ] && echo same)"
say policy-kept "$(policy)"

# --- upgraded with a live catalog
cp /out/slow.toml /etc/tierd/config.toml
tierd pin data/v2 >&2; tierd lease grant data/v2 --lease 8h >&2
until_true copying; say upgraded-while-copying $?
old=$(pid); dpkg -i /out/tierd.deb >&2; say upgrade $?
is_new; say upgrade-restarted $?
until_true answers
say upgrade-holds "$(ask /v1/status pins),$(ask /v1/status leases)"
until_true copying; say goes-on-after-upgrade $?

# --- a good configuration takes effect: no limit any more, and a bucket whose keys are a credential
systemd-run --unit=store --working-directory=/tmp /opt/weed -logtostderr mini -dir=/var/tmp -ip=127.0.0.1 \
    -ip.bind=127.0.0.1 -s3.port=8333 -s3.config=/out/s3.json -s3.port.iceberg=0 -s3.port.lance=0 -webdav=false \
    -admin.ui=false -master.telemetry=false -bucket=BUCKET >&2
cp /out/fast.toml /etc/tierd/config.toml
systemctl reload tierd; good() { [ "$(policy)" = 8553600.0 ]; }
until_true good; say good-in-force $?
until_true ended; say transfer-ends $?
tierd migrate data/v1 --release --wait >&2; say release $?
say at-its-path "$(readlink $v1 | cut -d/ -f1-3)"
[ "$(sums $v1/)" = "$v1_sum" ]; say bytes-right $?
stored() {
    tierd transfers --json >/out/transfers.json
    python3 -c 'import json, sys; found = json.load(open("/out/transfers.json"))["items"]
sys.exit(not any((t["ref"], t["state"]) == ("archive/a1", "done") for t in found))'
}
until_true stored; say stored $?
say credential "$(find /run/credentials/tierd.service -type f -printf '%f,%m,%u')"

# --- hangs
printf '[Service]\nWatchdogSec=4\n' >/etc/systemd/system/tierd.service.d/watchdog.conf
systemctl daemon-reload; systemctl restart tierd; until_true answers
old=$(pid); before=$(restarts); kill -STOP "$old"
until_true is_new && until_true answers; say after-hang $?
say hang-restarts $(($(restarts) - before))
in_journal 'Watchdog timeout'; say hang-told $?
rm /etc/systemd/system/tierd.service.d/watchdog.conf; systemctl daemon-reload

# --- jobs begin after it
systemctl stop tierd
cp /out/train.service /etc/systemd/system/train.service; mkdir /etc/systemd/system/train.service.d
cp /out/tierd-first.conf /etc/systemd/system/train.service.d/
systemctl daemon-reload; systemctl start train; say job $?
say job-path "$(cat /var/tmp/train 2>&1)"
say before "$(systemctl show tierd -p Before --value)"

# --- removed, purged
journalctl -u tierd -o json --no-pager >/out/journal.json
journalctl -u tierd TIERD_TRANSFER="$id" -o json --no-pager >/out/journal-of-transfer.json
cp /out/at-stop.conf /etc/systemd/system/tierd.service.d/; systemctl daemon-reload
dpkg -r tierd >&2; say after-remove "$(systemctl is-active tierd)"
[ -e /root/at-stop.db ]; say compiled-at-stop $?
[ -e /opt/tierd ]; say remove-leaves $?
[ -e /etc/tierd/config.toml ] && [ -e /var/lib/tierd/tierd.db ]; say remove-keeps $?
[ "$(sums $v1/)" = "$v1_sum" ]; say cold-after-remove $?
dpkg -P tierd >&2; say purge $?
[ -e /etc/tierd ] || [ -e /var/lib/tierd ] || [ -e /opt/tierd ]; say purge-leaves $?
[ "$(sums $v1/)" = "$v1_sum" ]; say cold-after-purge $?
say others-after-purge "$(cat /files/flash/data/v2/file /files/hdd/archive/a1/file 2>&1 | paste -sd,)"
""".replace("BUCKET", BUCKET)

DROP_IN = """
[Service]
RestartSec=200ms
LoadCredential=s3:/root/s3-keys
ExecStartPre=env where=sandbox bash /out/probe
"""
TRAIN = """
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'tierd warm data/v2 --wait --lease 1h >/var/tmp/train'
"""
TIERD_FIRST = "[Unit]\nWants=tierd.service\nAfter=tierd.service\n"
"""As the README gives it."""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, ext4: Path) -> Ran:
    out, files = tmp_path_factory.mktemp("out"), ext4 / "systemd"
    for path in (files / "flash", files / "hdd"):
        path.mkdir(parents=True)
    files.chmod(0o755)
    shutil.copy(package(tmp_path_factory), out / "tierd.deb")
    slow = CONFIG.replace("RATE", "1 MB/s").replace("MORE", "").replace("ARCHIVE", "")
    (out / "slow.toml").write_text(slow)
    (out / "unusable.toml").write_text(slow.replace("never", "77d", 1) + UNUSABLE)
    fast = CONFIG.replace("RATE", "unlimited").replace("MORE", CLOUD).replace("ARCHIVE", TO_CLOUD)
    (out / "fast.toml").write_text(fast.replace("never", "99d", 1))
    keys = f"[default]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
    (out / "s3-keys").write_text(keys)
    identity = {"name": "tierd", "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}]}
    actions = {"actions": ["Admin", "Read", "Write", "List", "Tagging"]}
    (out / "s3.json").write_text(json.dumps({"identities": [identity | actions]}))
    (out / "probe").write_text(PROBE)
    (out / "test.conf").write_text(DROP_IN)
    (out / "at-stop.conf").write_text(AT_STOP)
    (out / "train.service").write_text(TRAIN)
    (out / "tierd-first.conf").write_text(TIERD_FIRST)
    weed = Path(weed_path()).resolve()
    return run_in_container(out, STEPS, binds={files: "/files", weed: "/opt/weed"}, timeout_s=400)


def test_it_is_ready_when_the_start_returns(ran: Ran) -> None:
    assert (ran["install"], ran["start"], ran["answers-at-once"]) == ("0", "0", "0")
    assert ran["notified"] == "notify,active,running"


def test_fanotify_is_what_tells_who_reads(ran: Ran) -> None:
    tracker = json.loads((ran.out / "status.json").read_text())["tracker"]
    assert (tracker["name"], tracker["is_degraded"]) == ("fanotify", False), tracker
    assert ran["reader-seen"] == "0"


def test_its_exposure_is_below_4(ran: Ran) -> None:
    assert ran["security"] == "0", (ran.out / "security").read_text()


@pytest.mark.parametrize("what", ["etc", "usr", "namespace", "packets", "writable-code", "host-name"])
def test_the_sandbox_forbids_what_root_could_do(ran: Ran, what: str) -> None:
    assert (ran[f"outside-{what}"], ran[f"sandbox-{what}"]) == ("allowed", "refused")


def test_the_sandbox_allows_its_work(ran: Ran) -> None:
    assert (ran["sandbox-tiers"], ran["sandbox-fanotify"]) == ("allowed", "allowed")


def test_no_modules_no_new_privileges_and_filtered_calls(ran: Ran) -> None:
    assert (ran["sandbox-privileges"], ran["daemon-privileges"]) == ("1,2", "1,2")
    capabilities = int(ran["sandbox-capabilities"], 16)
    assert capabilities & 1 << _CAP_FOWNER
    assert not capabilities & (1 << _CAP_SETUID | 1 << _CAP_NET_ADMIN | 1 << _CAP_SYS_MODULE | 1 << _CAP_SYS_BOOT)


def test_only_the_group_may_connect(ran: Ran) -> None:
    assert ran["socket"] == "660,root,tierd"
    assert (ran["stranger"], ran["trainer"]) == ("7", "0")


def test_killed_in_mid_transfer_it_comes_back_and_goes_on(ran: Ran) -> None:
    assert (ran["killed-while-copying"], ran["after-kill"], ran["goes-on-after-kill"]) == ("0", "0", "0")


def test_it_stops_within_its_time_in_mid_transfer(ran: Ran) -> None:
    assert int(ran["stop-seconds"]) < 20
    assert ran["stop-result"] == "success,inactive"  # "timeout" if systemd had to kill it
    assert ran["goes-on-after-stop"] == "0"


def test_a_bad_configuration_is_refused_in_the_journal(ran: Ran) -> None:
    assert (ran["bad-is-told"], ran["bad-active"]) == ("0", "active")


def test_a_configuration_that_cannot_be_run_is_given_up_for_the_one_before(ran: Ran) -> None:
    assert (ran["unusable-is-told"], ran["unusable-active"], ran["unusable-process"]) == ("0", "active", "same")
    assert ran["policy-kept"] == "None"


def test_an_upgrade_keeps_holds_and_the_running_transfer(ran: Ran) -> None:
    assert (ran["upgraded-while-copying"], ran["upgrade"], ran["upgrade-restarted"]) == ("0", "0", "0")
    assert ran["upgrade-holds"] == "1,1"
    assert ran["goes-on-after-upgrade"] == "0"


def test_a_good_configuration_takes_effect(ran: Ran) -> None:
    assert (ran["good-in-force"], ran["transfer-ends"]) == ("0", "0")


def test_after_all_that_the_bytes_are_right(ran: Ran) -> None:
    assert (ran["release"], ran["at-its-path"], ran["bytes-right"]) == ("0", "/files/hdd", "0")


def test_the_keys_of_a_bucket_are_a_credential_of_the_service(ran: Ran) -> None:
    assert ran["credential"] == "s3,400,root"
    assert ran["stored"] == "0"
    transfers = json.loads((ran.out / "transfers.json").read_text())["items"]
    assert [(t["destination"], t["state"]) for t in transfers if t["ref"] == "archive/a1"] == [("cloud", "done")]


def test_a_daemon_that_hangs_is_restarted(ran: Ran) -> None:
    assert (ran["after-hang"], ran["hang-told"]) == ("0", "0")
    assert int(ran["hang-restarts"]) >= 1


def test_jobs_begin_after_it(ran: Ran) -> None:
    assert "slurmd.service" in ran["before"].split()
    assert (ran["job"], ran["job-path"]) == ("0", "/files/flash/data/v2")


def test_the_journal_knows_priorities_and_where_lines_come_from(ran: Ran) -> None:
    entries = [json.loads(line) for line in (ran.out / "journal.json").read_text().splitlines()]
    own = [e for e in entries if e.get("SYSLOG_IDENTIFIER") == "tierd"]
    assert {e["_SYSTEMD_UNIT"] for e in own} == {"tierd.service"}
    priority = {e["MESSAGE"]: e["PRIORITY"] for e in own}
    assert [p for m, p in priority.items() if "is refused" in m] == ["3"]
    assert {p for m, p in priority.items() if m.startswith("daemon.started: tierd 0")} == {"6"}
    assert not any("Traceback" in str(e["MESSAGE"]) for e in own)
    assert not any(SECRET_KEY in str(e["MESSAGE"]) for e in own)


def test_the_journal_selects_by_what_an_event_is_about(ran: Ran) -> None:
    entries = [json.loads(line) for line in (ran.out / "journal.json").read_text().splitlines()]
    started = [e for e in entries if e.get("TIERD_EVENT") == "daemon.started"]
    assert len(started) > 1
    assert all(int(e["TIERD_EVENT_ID"]) > 0 for e in started)
    about = [json.loads(line) for line in (ran.out / "journal-of-transfer.json").read_text().splitlines()]
    events = [e["TIERD_EVENT"] for e in about if "TIERD_EVENT" in e]
    assert events[0] == "transfer.queued"
    assert events[-1] == "transfer.done"
    assert {(e["TIERD_SNAPSHOT"], e["TIERD_DATASET"]) for e in about if "TIERD_EVENT" in e} == {("data/v1", "data")}


def test_removal_and_purge_leave_every_byte_readable_at_its_path(ran: Ran) -> None:
    assert (ran["after-remove"], ran["remove-keeps"], ran["cold-after-remove"]) == ("inactive", "0", "0")
    assert (ran["compiled-at-stop"], ran["remove-leaves"]) == ("0", "1")
    assert (ran["purge"], ran["purge-leaves"], ran["cold-after-purge"]) == ("0", "1", "0")
    assert ran["others-after-purge"] == "two,old"
