//! `wharf login` and `wharf logout`, which change docker's config like `docker login` and `docker logout`.

use std::io::Read as _;

use super::Call;
use crate::{
    client::{
        args::{LoginArgs, LogoutArgs},
        credentials::Keeper,
        exit::{Exit, Failure, Stop},
        print,
    },
    names::{Secret, printable},
};

/// Longer than the tokens of any registry.
const PASSWORD_BYTES_MAX: u64 = 64 * 1024;

pub(super) async fn login(mut call: Call, args: LoginArgs) -> Result<(), Stop> {
    let (Some(username), true) = (args.username.filter(|name| !name.is_empty()), args.password_stdin) else {
        return Err(Failure::usage("`wharf login` needs `--username` and `--password-stdin`")
            .hint("pipe the password in: `printf %s \"$PASSWORD\" | wharf login --username NAME --password-stdin HOST`")
            .into());
    };
    let keeper = Keeper::of(args.host.as_deref(), &call.env)?;
    let password = password()?;
    let saving = async { Ok(keeper.save(&username, &password).await?) };
    let place = call.signals.guard(saving).await?;
    print::line(format_args!(
        "Saved the login for {} in {}; the registry checks it at the next push or pull",
        printable(keeper.host()),
        printable(&place)
    ))
}

pub(super) async fn logout(mut call: Call, args: LogoutArgs) -> Result<(), Stop> {
    let keeper = Keeper::of(args.host.as_deref(), &call.env)?;
    let removing = async { Ok(keeper.remove().await?) };
    call.signals.guard(removing).await?;
    print::line(format_args!("Removed the login for {}", printable(keeper.host())))
}

/// Standard input without its final line end, as docker reads it.
fn password() -> Result<Secret<String>, Failure> {
    let mut text = String::new();
    let read = std::io::stdin().lock().take(PASSWORD_BYTES_MAX + 1).read_to_string(&mut text);
    let count = read.map_err(|error| {
        Failure::new(Exit::Usage, format!("cannot read the password from standard input: {error}"))
    })?;
    if count as u64 > PASSWORD_BYTES_MAX {
        let text = format!("the password on standard input has more than {} KiB", PASSWORD_BYTES_MAX >> 10);
        return Err(Failure::usage(text));
    }
    let password = text.strip_suffix('\n').unwrap_or(&text);
    let password = password.strip_suffix('\r').unwrap_or(password);
    if password.is_empty() {
        return Err(Failure::usage("there is no password on standard input")
            .hint("check that the variable with the password is set"));
    }
    Ok(Secret::new(password.to_owned()))
}
