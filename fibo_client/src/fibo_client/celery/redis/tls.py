"""What a TLS connection needs, to Redis and to the Sentinels alike."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Final

from fibo_client.errors import ConfigError

if TYPE_CHECKING:
    from fibo_client.celery.redis.address import TLSOptions

_CERT_REQS: Final = {"required": ssl.CERT_REQUIRED, "optional": ssl.CERT_OPTIONAL, "none": ssl.CERT_NONE}


def tls_context(options: TLSOptions) -> ssl.SSLContext:
    """Make the context for TLS.

    Args:
        options: How the server is checked, and what the client shows.

    Returns:
        The context.

    Raises:
        ConfigError: A file is not there, or a setting is not what it should be. It names the setting.
    """
    context = ssl.create_default_context()
    context.check_hostname = options.check_hostname
    context.verify_mode = _CERT_REQS[options.cert_reqs]
    setting = "ssl_min_version"
    try:
        if options.min_version is not None:
            context.minimum_version = options.min_version
        setting = "ssl_ciphers"
        if options.ciphers is not None:
            context.set_ciphers(options.ciphers)
        setting = "ssl_ca_certs"
        if options.ca_certs is not None:
            context.load_verify_locations(cafile=options.ca_certs)
        setting = "ssl_ca_path"
        if options.ca_path is not None:
            context.load_verify_locations(capath=options.ca_path)
        setting = "ssl_ca_data"
        if options.ca_data is not None:
            context.load_verify_locations(cadata=options.ca_data)
        setting = "ssl_certfile" if options.keyfile is None else "ssl_certfile or ssl_keyfile"
        if options.certfile is not None:  # Without a password, OpenSSL would ask for one on the terminal.
            context.load_cert_chain(options.certfile, options.keyfile, password=options.password or "")
    except FileNotFoundError:
        wrong = f"{setting}: there is no such file"
    except (OSError, ValueError) as error:
        wrong = f"{setting}: {error}"
    else:
        context.verify_flags |= options.include_verify_flags or ssl.VerifyFlags(0)
        context.verify_flags &= ~(options.exclude_verify_flags or ssl.VerifyFlags(0))
        return context
    raise ConfigError(wrong)  # Without the context, which may show a password.
