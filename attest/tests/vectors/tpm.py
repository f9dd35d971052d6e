#!/usr/bin/env python3
"""Makes tpm.txt: what two TPMs (swtpm) say, recorded with tpm2-tools, as lines of a name and hexadecimal digits.

    attest/tests/vectors/tpm.py > attest/tests/vectors/tpm.txt

Needs swtpm, swtpm_setup, tpm2-tools and openssl. Each TPM has a certification authority of its own. The code of challenges and the
extra data of quotes are computed here from docs/ATTESTATION.md: a second implementation.
"""

import hashlib
import hmac
import os
import subprocess
import sys
import tempfile
import time

NOW = 1796000000  # seconds of Unix time: when all challenges here were given
HPKE_KEY = bytes(range(65))
REQUEST = b"keys/unwrap"
AUTHORITY_KEY = b"\x42" * 32
REGISTERS = [0, 7, 14]
SEPARATOR = bytes(4)
HOSTS = {"one": bytes([1] * 16), "two": bytes([2] * 16)}
SIGNING = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|sign"

# Name, algorithm, hash algorithm, the endorsement key that is its parent, attributes.
KEYS = [
    ("p256", "ecc256:ecdsa-sha256:null", "sha256", "rsa", SIGNING),
    ("p384", "ecc384:ecdsa-sha384:null", "sha384", "ecc", SIGNING),
    ("rsassa", "rsa2048:rsassa-sha256:null", "sha256", "rsa", SIGNING),
    ("rsapss", "rsa2048:rsapss-sha256:null", "sha256", "rsa", SIGNING),
    # Signs whatever it is given.
    ("unrestricted", "ecc256:ecdsa-sha256:null", "sha256", "rsa", SIGNING.replace("restricted|", "")),
    # Could be moved to another TPM.
    ("movable", "ecc256:ecdsa-sha256:null", "sha256", "rsa", SIGNING.replace("fixedtpm|fixedparent|", "")),
]
PARENTS = {"rsa": "0x81010001", "ecc": "0x81010016"}


def authenticate(key, parts):
    code = hmac.new(key, digestmod=hashlib.sha256)
    for part in parts:
        code.update(len(part).to_bytes(8, "big") + part)
    return code.digest()


def challenge(host, registers, bank=0x000B):
    mask = sum(1 << register for register in registers)
    fields = b"\0\1" + NOW.to_bytes(8, "big") + bank.to_bytes(2, "big") + mask.to_bytes(4, "big") + host
    return fields + authenticate(AUTHORITY_KEY, [b"vmcryptfs attest challenge 1", host, fields])


def extra_data(nonce, host):
    fields = [b"vmcryptfs attest quote 1", nonce, HPKE_KEY, host, REQUEST]
    return hashlib.sha256(b"".join(len(field).to_bytes(8, "big") + field for field in fields)).digest()


class Tpm:
    """A TPM with certificates, in a folder."""

    def __init__(self, folder, name):
        self.name, self.folder = name, os.path.join(folder, name)
        for part in ("state", "ca"):
            os.makedirs(os.path.join(self.folder, part))
        ca = self.path("ca")
        self.write("localca.conf", f"statedir={ca}\nsigningkey={ca}/sign.pem\nissuercert={ca}/issuer.pem\ncertserial={ca}/serial\n")
        self.write("setup.conf", "create_certs_tool=/usr/bin/swtpm_localca\n"
                   f"create_certs_tool_config={self.path('localca.conf')}\n"
                   "create_certs_tool_options=/etc/swtpm-localca.options\nactive_pcr_banks=sha256\n")
        run("swtpm_setup", "--tpm2", "--tpmstate", self.path("state"), "--create-ek-cert", "--overwrite",
            "--config", self.path("setup.conf"))
        self.switch_on()

    def switch_on(self):
        socket = self.path("socket")
        self.process = subprocess.Popen(
            ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={self.path('state')}", "--server", f"type=unixio,path={socket}",
             "--ctrl", f"type=unixio,path={socket}.ctrl", "--flags", "not-need-init,startup-clear"],
            stderr=subprocess.DEVNULL)
        while not os.path.exists(socket):
            time.sleep(0.01)

    def switch_off(self):
        self.process.kill()
        self.process.wait()

    def lose_power(self):
        self.switch_off()
        for name in ("socket", "socket.ctrl"):
            if os.path.exists(self.path(name)):
                os.remove(self.path(name))
        self.switch_on()

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, name, text):
        with open(self.path(name), "w", encoding="ascii") as file:
            file.write(text)

    def read(self, name):
        with open(self.path(name), "rb") as file:
            return file.read()

    def tool(self, verb, *arguments):
        environment = {**os.environ, "TPM2TOOLS_TCTI": f"swtpm:path={self.path('socket')}"}
        run(f"tpm2_{verb}", *arguments, cwd=self.folder, env=environment)
        # There is no resource manager: what a tool loaded stays.
        run("tpm2_flushcontext", "-t", cwd=self.folder, env=environment)

    def record(self, what, name):
        print(f"{self.name}/{what} {self.read(name).hex()}")

    def record_der(self, what, pem):
        run("openssl", "x509", "-in", self.path(pem), "-outform", "der", "-out", self.path("der"))
        self.record(what, "der")

    def parent(self, which, use):
        """Does `use` with the arguments that authorize an endorsement key: the RSA one by its policy."""
        if which == "ecc":
            return use()
        self.tool("startauthsession", "--policy-session", "-S", "session")
        self.tool("policysecret", "-Q", "-S", "session", "-c", "e")
        use("-P", "session:session")
        self.tool("flushcontext", "session")
        return None

    def endorsement(self):
        self.record_der("root", "ca/swtpm-localca-rootca-cert.pem")
        self.record_der("issuer", "ca/issuer.pem")
        for which, handle, index in (("rsa", PARENTS["rsa"], "0x1c00002"), ("ecc", PARENTS["ecc"], "0x1c00016")):
            self.tool("readpublic", "-Q", "-c", handle, "-o", "ek")
            self.record(f"ek-{which}/public", "ek")
            self.tool("nvread", "-C", "o", index, "-o", "ek.der")
            self.record(f"ek-{which}/certificate", "ek.der")
        self.other_certificates()
        # Templates that swtpm has no certificates for.
        for which, algorithm, name_hash in (("p256", "ecc256:aes128cfb", "sha256"), ("rsa3072", "rsa3072:aes256cfb", "sha384")):
            self.tool("createprimary", "-Q", "-C", "e", "-G", algorithm, "-g", name_hash, "-c", "other", "-a",
                      "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|adminwithpolicy|restricted|decrypt")
            self.tool("readpublic", "-Q", "-c", "other", "-o", "ek")
            self.record(f"ek-{which}/public", "ek")

    def other_certificates(self):
        """Certificates by the same authority of the same key, for other purposes than endorsement."""
        self.tool("readpublic", "-Q", "-c", PARENTS["rsa"], "-o", "ek.pem", "-f", "pem")
        for name, extensions in (("without-purpose", "keyUsage=keyEncipherment"), ("of-server", "extendedKeyUsage=serverAuth")):
            self.write("extensions", extensions + "\n")
            run("openssl", "x509", "-new", "-force_pubkey", self.path("ek.pem"), "-subj", "/CN=unknown", "-days", "3650",
                "-CA", self.path("ca/issuer.pem"), "-CAkey", self.path("ca/sign.pem"), "-extfile", self.path("extensions"),
                "-out", self.path("other.pem"))
            self.record_der(f"ek-rsa/certificate-{name}", "other.pem")

    def attestation(self, name, algorithm, name_hash, parent, attributes):
        handle = PARENTS[parent]
        self.parent(parent, lambda *session: self.tool(
            "create", "-Q", "-C", handle, *session, "-G", algorithm, "-g", name_hash, "-a", attributes, "-u", "ak", "-r", "ak.private",
            "--creation-data", "data", "-t", "ticket", "-d", "hash"))
        self.parent(parent, lambda *session: self.tool(
            "load", "-Q", "-C", handle, *session, "-u", "ak", "-r", "ak.private", "-c", "ak.ctx", "-n", "name"))
        # By itself it signs by RSASSA with all RSA keys.
        scheme = ["--scheme", "rsapss"] if "rsapss" in algorithm else []
        self.tool("certifycreation", "-Q", "-C", "ak.ctx", "-c", "ak.ctx", "-d", "hash", "-t", "ticket", "-g", name_hash, "-o", "signature",
                  "--attestation", "statement", "-f", "tss", *scheme)
        for what, file in (("public", "ak"), ("name", "name"), ("creation-data", "data"), ("creation-statement", "statement"),
                           ("creation-signature", "signature")):
            self.record(f"{name}/{what}", file)
        self.quote(name, name_hash, name, REGISTERS, *scheme)
        if name == "p256":
            # Of fewer registers, or more, than its challenge demands.
            self.quote(name, name_hash, f"{name}/narrow", REGISTERS[:-1])
            self.quote(name, name_hash, f"{name}/wide", REGISTERS + [15])

    def quote(self, key, name_hash, what, registers, *scheme):
        nonce = challenge(HOSTS[self.name], REGISTERS)
        self.tool("quote", "-Q", "-c", "ak.ctx", "-l", "sha256:" + ",".join(map(str, registers)), "-g", name_hash,
                  "-q", extra_data(nonce, HOSTS[self.name]).hex(), "-m", "statement", "-s", "signature", "-o", "values", "-F", "values", *scheme)
        print(f"{self.name}/{what}/challenge {nonce.hex()}")
        for field, file in (("quote", "statement"), ("quote-signature", "signature"), ("values", "values")):
            self.record(f"{what}/{field}", file)


def run(*command, **options):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, **options)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: {done.stdout.decode(errors='replace')}")


def credential(folder, which, *generate):
    """A credential by tpm2-tools for a key whose private part is known, so that it can be opened without a TPM."""
    name, secret = b"\0\x0b" + hashlib.sha256(which.encode()).digest(), hashlib.sha256(b"secret").digest()
    for file, content in (("name", name), ("secret", secret)):
        with open(os.path.join(folder, file), "wb") as out:
            out.write(content)
    run("openssl", "genpkey", "-algorithm", *generate, "-out", "private.pem", cwd=folder)
    run("openssl", "pkcs8", "-topk8", "-nocrypt", "-in", "private.pem", "-outform", "der", "-out", "private", cwd=folder)
    run("openssl", "pkey", "-in", "private.pem", "-pubout", "-out", "public.pem", cwd=folder)
    run("openssl", "pkey", "-in", "private.pem", "-pubout", "-outform", "der", "-out", "public", cwd=folder)
    run("tpm2_makecredential", "-Q", "-T", "none", "-u", "public.pem", "-G", which, "-s", "secret", "-n", name.hex(), "-o", "blob", cwd=folder)
    for file in ("private", "public", "name", "secret", "blob"):
        with open(os.path.join(folder, file), "rb") as content:
            print(f"credential-{which}/{file} {content.read().hex()}")


def main():
    print(f"# Made by {os.path.basename(__file__)}. Authority key {AUTHORITY_KEY.hex()}, HPKE key {HPKE_KEY.hex()},")
    print(f"# request {REQUEST.decode()}, hosts of 16 bytes 01 and 02, challenges given at {NOW}.")
    with tempfile.TemporaryDirectory() as folder:
        credential(folder, "rsa", "RSA", "-pkeyopt", "rsa_keygen_bits:2048")
        credential(folder, "ecc", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
        for name in HOSTS:
            tpm = Tpm(folder, name)
            try:
                for register, event in ((7, b"measured"), (0, SEPARATOR), (7, SEPARATOR)):
                    tpm.tool("pcrextend", f"{register}:sha256={hashlib.sha256(event).hexdigest()}")
                tpm.endorsement()
                for key in KEYS if name == "one" else KEYS[:1]:
                    tpm.attestation(*key)
                if name == "one":
                    # Its clock is not safe for some seconds.
                    tpm.lose_power()
                    tpm.attestation("after-power-loss", *KEYS[0][1:])
            finally:
                tpm.switch_off()


main()
