"""The web configuration file: what is good, what is not, and what is said about it."""

from __future__ import annotations

import os
import shutil
import ssl
from collections.abc import Mapping
from pathlib import Path

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from exporter.web import files
from exporter.web.gate import MAX_CONFIG, Gate
from exporter.web.web_config import (
    TLS_1_2_SUITES,
    ClientAuth,
    RateLimit,
    TlsVersion,
    WebConfig,
    WebConfigError,
    parse,
)

CASES = Path(__file__).parent / "web_config"
GOOD = sorted(path.name for path in CASES.glob("*.good.yml"))
BAD = sorted(path.name for path in CASES.glob("*.bad.yml"))

AUTHORITY = trustme.CA()
SERVER = AUTHORITY.issue_cert("localhost")
HASH = "$2y$04$6ssKBX3ZEKUmQr1ifKetluWH5QS/cETBuFsKQ4MI8JUdeyMFZpyn6"
"""Of ada42, with the least cost."""

VERIFYING = """
tls_server_config:
  cert_file: a
  key_file: b
  client_ca_file: c
  client_auth_type: RequireAndVerifyClientCert
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The cases with the certificates that they name."""
    for case in CASES.iterdir():
        shutil.copy(case, tmp_path)
    SERVER.cert_chain_pems[0].write_to_path(tmp_path / "server.crt")
    SERVER.private_key_pem.write_to_path(tmp_path / "server.key")
    AUTHORITY.cert_pem.write_to_path(tmp_path / "clients.pem")
    return tmp_path


def read(text: str | bytes, path: str = "/etc/forewarn/web.yml") -> WebConfig:
    return parse(text.encode() if isinstance(text, str) else text, Path(path))


def problems(text: str | bytes) -> list[str]:
    with pytest.raises(WebConfigError) as caught:
        read(text)
    return [problem.removeprefix("/etc/forewarn/web.yml") for problem in caught.value.problems]


class TestCases:
    def test_there_are_cases_of_both_kinds(self) -> None:
        assert (len(GOOD), len(BAD)) > (20, 40)

    @pytest.mark.parametrize("name", GOOD)
    def test_a_good_file_is_used(self, folder: Path, name: str) -> None:
        gate = Gate(folder / name)
        gate.close()
        assert gate.problem is None
        assert (gate.context is not None) is ("cert_file: " in (folder / name).read_text().replace('"', ""))

    @pytest.mark.parametrize("name", BAD)
    def test_a_bad_file_is_refused_with_all_that_is_wrong_and_how_to_mend_it(self, folder: Path, name: str) -> None:
        path = folder / name
        says = [line.removeprefix("# says: ") for line in path.read_text().splitlines() if line.startswith("# says: ")]
        assert says
        with pytest.raises(WebConfigError) as caught:
            Gate(path)
        told = [problem.removeprefix(str(path)).replace(str(folder), "FOLDER") for problem in caught.value.problems]
        assert told == says


class TestValues:
    def test_what_is_not_set_has_its_default(self) -> None:
        tls = read("tls_server_config: {cert_file: a, key_file: b}").tls
        assert tls is not None
        assert (tls.client_auth, tls.min_version, tls.max_version) == (
            ClientAuth.NONE,
            TlsVersion.TLS12,
            TlsVersion.TLS13,
        )
        assert (tls.prefer_server_cipher_suites, tls.cipher_suites, tls.curve) == (True, (), None)

    def test_paths_are_relative_to_the_folder_of_the_file(self) -> None:
        config = read(
            "tls_server_config: {cert_file: tls/a, key_file: ../b, client_ca_file: /c,"
            " client_auth_type: VerifyClientCertIfGiven}"
        )
        assert [str(path) for path in config.files] == ["/etc/forewarn/tls/a", "/etc/forewarn/../b", "/c"]

    def test_every_suite_has_a_name_that_openssl_knows(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_ciphers(":".join(TLS_1_2_SUITES.values()))
        known = {suite["name"] for suite in context.get_ciphers()}
        assert set(TLS_1_2_SUITES.values()) <= known

    def test_suites_are_taken_in_their_order_and_those_of_tls_1_3_are_left_to_themselves(self) -> None:
        config = read(
            "tls_server_config: {cert_file: a, key_file: b, cipher_suites: [TLS_AES_128_GCM_SHA256,"
            " TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]}"
        )
        assert config.tls is not None
        assert config.tls.cipher_suites == ("ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-RSA-AES128-GCM-SHA256")

    def test_where_only_suites_of_tls_1_3_are_named_nothing_older_is_spoken(self) -> None:
        config = read("tls_server_config: {cert_file: a, key_file: b, cipher_suites: [TLS_AES_128_GCM_SHA256]}")
        assert config.tls is not None
        assert config.tls.min_version is TlsVersion.TLS13

    @pytest.mark.parametrize(
        ("curves", "curve"),
        [("[CurveP384]", "secp384r1"), ("[X25519, CurveP256]", "X25519"), ("[]", None)],
    )
    def test_of_several_curves_the_first_is_taken(self, curves: str, curve: str | None) -> None:
        tls = read(f"tls_server_config: {{cert_file: a, key_file: b, curve_preferences: {curves}}}").tls
        assert tls is not None
        assert tls.curve == curve

    def test_a_header_may_be_a_number_as_yaml_has_it(self) -> None:
        assert read("http_server_config: {headers: {X-XSS-Protection: 0}}").headers == {"X-XSS-Protection": "0"}

    def test_a_blank_header_is_none(self) -> None:
        assert read('http_server_config: {headers: {X-Frame-Options: "", Strict-Transport-Security: }}').headers == {}

    @pytest.mark.parametrize(
        ("text", "limit"),
        [
            ("{interval: 1s, burst: 3}", RateLimit(1.0, 3)),
            ("{interval: 1m30s, burst: 3}", RateLimit(90.0, 3)),
            ("{interval: 1.5s, burst: 3}", RateLimit(1.5, 3)),
            ("{interval: 250ms}", RateLimit(0.25, 0)),
            ("{interval: 0, burst: 3}", None),
            ("{burst: 3}", None),
            ("{}", None),
        ],
    )
    def test_a_rate_limit_is_read_as_go_writes_times(self, text: str, limit: RateLimit | None) -> None:
        assert read(f"rate_limit: {text}").rate_limit == limit

    @pytest.mark.parametrize("interval", ["1d", "-1s", "1", "s", "1s 2s", "25h", "1e3s", "٣s", "nan", "[1s]"])
    def test_what_is_no_time_is_refused(self, interval: str) -> None:
        (told,) = problems(f"rate_limit: {{interval: {interval}}}")
        assert told.startswith(":1: rate_limit.interval: this is ")

    @pytest.mark.parametrize(
        ("text", "authenticates"),
        [
            ("", False),
            (f"basic_auth_users: {{ada: {HASH}}}", True),
            ("basic_auth_users: {}", False),
            ("tls_server_config: {cert_file: a, key_file: b}", False),
            ("tls_server_config: {cert_file: a, key_file: b, client_auth_type: RequestClientCert}", False),
            ("tls_server_config: {cert_file: a, key_file: b, client_auth_type: VerifyClientCertIfGiven}", False),
            (VERIFYING, True),
        ],
    )
    def test_whether_nobody_comes_in_unknown(self, text: str, authenticates: bool) -> None:
        assert read(text).authenticates is authenticates

    def test_of_several_problems_all_are_told_from_the_top_down(self) -> None:
        told = problems("rate_limit: {burst: x}\ntls_server_config:\n  min_version: 3\nhttp_server_config: {http3: on}")
        assert [problem.split(": ")[0] for problem in told] == [":1", ":2", ":2", ":3", ":4"]


class TestSecrets:
    @pytest.mark.parametrize(
        "text",
        [
            "basic_auth_users: {ada: opensesame}",
            "basic_auth_users: {ada: {opensesame: 1}}",
            "basic_auth_users: {ada: *opensesame}",
            "basic_auth_users: {ada: !opensesame x}",
            "basic_auth_users:\n  ada: 'opensesame\n",
            'basic_auth_users:\n  ada: "opensesame\\q"\n',
            "basic_auth_users:\n\tada: opensesame\n",
            "basic_auth_users:\n  ada: opensesame: x\n",
            "basic_auth_users:\n  ada: @opensesame\n",
            "basic_auth_users:\n  ada: %opensesame\n",
            "basic_auth_users:\n ada: &opensesame &opensesame x\n",
            "tls_server_config: {key: opensesame, key_file: b, cert_file: c}",
            "tls_server_config: {key: [opensesame], cert_file: c}",
            "opensesame",
            "- opensesame",
        ],
    )
    def test_no_problem_repeats_one(self, text: str) -> None:
        assert "opensesame" not in "\n".join(problems(text))

    def test_none_is_shown_by_the_configuration_itself(self) -> None:
        config = read(f"{{basic_auth_users: {{ada: {HASH}}}, tls_server_config: {{key: opensesame, cert_file: c}}}}")
        assert "opensesame" not in repr(config)
        assert HASH not in repr(config)
        assert config.users["ada"].reveal() == HASH


class TestHostile:
    def test_aliases_within_aliases_are_not_unfolded(self) -> None:
        levels = "\n".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 60))
        assert len(problems(f"l0: &l0 x\n{levels}")) == 60

    def test_an_alias_within_itself_ends(self) -> None:
        told = problems("&a basic_auth_users: &b {ada: *b}")
        assert told == [":1: basic_auth_users.ada: this is a mapping: write a text"]

    def test_nesting_without_end_is_refused(self) -> None:
        assert problems("[" * 50_000) == [": it is nested too deep: no key of it holds more than two levels"]

    @pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"rate_limit: \xe9\n", b"a: \x07", b"a: \x00"])
    def test_what_is_no_text_is_refused(self, content: bytes) -> None:
        assert len(problems(content)) == 1

    def test_a_key_is_never_told_at_length_or_with_what_would_break_a_line(self) -> None:
        (told,) = problems('"evil\\nkey' + "x" * 500 + '": 1')
        assert told.startswith(":1: 'evil\\nkeyxxx")
        assert len(told) < 250

    def test_no_tag_makes_an_object(self) -> None:
        assert problems("!!python/object/apply:os.system [exit]")[0].startswith(":1: this is a list")

    @given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(lambda text: text.encode(errors="replace"))))
    def test_whatever_stands_there_is_read_or_refused(self, content: bytes) -> None:
        try:
            read(content)
        except WebConfigError as error:
            assert error.problems  # noqa: PT017 - either is right

    @given(
        st.dictionaries(
            st.sampled_from(["cert_file", "key_file", "client_auth_type", "client_allowed_sans", "cipher_suites", "x"]),
            st.recursive(
                st.sampled_from(["a", "1", "true", "~", '""', "TLS12", "NoClientCert"]),
                lambda inner: (
                    st.lists(inner, max_size=3).map(lambda them: f"[{', '.join(them)}]")
                    | st.dictionaries(st.sampled_from("ab"), inner).map(
                        lambda them: "{" + ", ".join(f"{key}: {value}" for key, value in them.items()) + "}"
                    )
                ),
                max_leaves=5,
            ),
        )
    )
    def test_whatever_a_key_holds_is_read_or_refused(self, keys: Mapping[str, str]) -> None:
        pairs = ", ".join(f"{key}: {value}" for key, value in keys.items())
        try:
            read(f"tls_server_config: {{{pairs}}}")
        except WebConfigError as error:
            assert all(it.startswith("/etc/forewarn/web.yml:1: ") for it in error.problems)  # noqa: PT017 - likewise


class TestFiles:
    def config(self, folder: Path, *, cert: str = "server.crt", key: str = "server.key") -> Path:
        path = folder / "web.yml"
        path.write_text(f"tls_server_config: {{cert_file: {cert}, key_file: {key}}}\n")
        return path

    def told(self, path: Path) -> str:
        with pytest.raises(WebConfigError) as caught:
            Gate(path)
        (problem,) = caught.value.problems
        return problem.replace(str(path.parent), "FOLDER")

    def test_one_that_is_not_there(self, tmp_path: Path) -> None:
        assert self.told(tmp_path / "gone.yml") == (
            "FOLDER/gone.yml: it cannot be read: No such file or directory: write the path of a file that is there;"
            " relative paths begin at the folder of the web configuration"
        )

    def test_one_that_is_a_folder(self, tmp_path: Path) -> None:
        (tmp_path / "web.yml").mkdir()
        assert self.told(tmp_path / "web.yml").startswith("FOLDER/web.yml: it cannot be read: ")

    def test_a_pipe_is_not_waited_for(self, folder: Path) -> None:
        os.mkfifo(folder / "pipe")
        assert self.told(self.config(folder, key="pipe")) == (
            "FOLDER/web.yml:1: tls_server_config.key_file: FOLDER/pipe: it cannot be read: it is not a file: write the"
            " path of another file"
        )

    def test_one_larger_than_the_bound(self, tmp_path: Path) -> None:
        path = tmp_path / "web.yml"
        path.write_bytes(b"#" * (MAX_CONFIG + 1))
        assert self.told(path) == (
            f"FOLDER/web.yml: it cannot be read: it is larger than {MAX_CONFIG} bytes: write the path of another file"
        )

    def test_one_that_may_not_be_read(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        read_one = files.read

        def read(path: Path, limit: int) -> files.Content:
            if path.name == "server.key":
                raise PermissionError(13, "Permission denied")  # root reads every file
            return read_one(path, limit)

        monkeypatch.setattr(files, "read", read)
        assert self.told(self.config(folder)) == (
            "FOLDER/web.yml:1: tls_server_config.key_file: FOLDER/server.key: it cannot be read: Permission denied: let"
            " the user that Forewarn runs as read it"
        )

    def test_a_key_of_another_certificate(self, folder: Path) -> None:
        AUTHORITY.issue_cert("localhost").private_key_pem.write_to_path(folder / "server.key")
        assert self.told(self.config(folder)) == (
            "FOLDER/web.yml:1: tls_server_config.cert_file: the certificate belongs to another key: write the"
            " certificate and the key of one pair"
        )

    def test_certificate_and_key_confused(self, folder: Path) -> None:
        assert self.told(self.config(folder, cert="server.key", key="server.crt")) == (
            "FOLDER/web.yml:1: tls_server_config.cert_file: there is no certificate in it: write one in PEM"
        )

    def test_a_key_that_is_none(self, folder: Path) -> None:
        assert self.told(self.config(folder, key="clients.pem")) == (
            "FOLDER/web.yml:1: tls_server_config.key_file: there is no key in it: write one in PEM"
        )

    def test_a_certificate_that_is_damaged(self, folder: Path) -> None:
        (folder / "server.crt").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        assert "the certificate and its key cannot be used (" in self.told(self.config(folder))

    def test_an_encrypted_key_is_told_and_nobody_is_asked_for_its_password(self, folder: Path) -> None:
        from cryptography.hazmat.primitives import serialization

        key = serialization.load_pem_private_key(SERVER.private_key_pem.bytes(), None)
        (folder / "server.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(b"opensesame"),
            )
        )
        assert self.told(self.config(folder)) == (
            "FOLDER/web.yml:1: tls_server_config.key_file: the key is encrypted: write it without a password:"
            " openssl pkey -in OLD -out NEW"
        )

    def test_certificates_may_stand_in_the_file_itself(self, folder: Path) -> None:
        def inline(pem: bytes) -> str:
            return "|\n" + "".join(f"    {line}\n" for line in pem.decode().splitlines())

        (folder / "web.yml").write_text(
            "tls_server_config:\n"
            f"  cert: {inline(SERVER.cert_chain_pems[0].bytes())}"
            f"  key: {inline(SERVER.private_key_pem.bytes())}"
            f"  client_ca: {inline(AUTHORITY.cert_pem.bytes())}"
            "  client_auth_type: RequireAndVerifyClientCert\n"
        )
        gate = Gate(folder / "web.yml")
        gate.close()
        assert gate.context is not None
        assert gate.context.verify_mode is ssl.CERT_REQUIRED
        assert len(gate.context.get_ca_certs()) == 1

    def test_nothing_of_a_key_is_written_to_a_disk(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(folder))
        path = self.config(folder)
        before = set(folder.iterdir())
        Gate(path).close()
        assert set(folder.iterdir()) == before
