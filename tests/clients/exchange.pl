#!/usr/bin/perl
# Exchange APDUs through Chipcard::PCSC. See README.md for the command line.

use strict;
use warnings;

use Chipcard::PCSC;
use Chipcard::PCSC::Card;

sub fail { die "$_[0]: $Chipcard::PCSC::errno\n" }
sub hex_of { return join '', map { sprintf '%02X', $_ } @{ $_[0] } }

my ($wanted, @apdus) = @ARGV;
my $context = Chipcard::PCSC->new or fail('context');
my @readers = grep { defined } $context->ListReaders;
@readers or fail('no reader');
print "reader $_\n" for @readers;
my ($name) = grep { index($_, $wanted) >= 0 } @readers or die "no reader $wanted\n";

my $card = Chipcard::PCSC::Card->new($context, $name, $Chipcard::PCSC::SCARD_SHARE_SHARED)
  or fail('connect');
my @status = $card->Status;
@status or fail('status');
print 'atr ', hex_of($status[3]), "\n";
for my $apdu (@apdus) {
    my $answer = $card->Transmit([map { hex } $apdu =~ /../g]) or fail('transmit');
    print 'answer ', hex_of($answer), "\n";
}
$card->Disconnect($Chipcard::PCSC::SCARD_LEAVE_CARD) or fail('disconnect');
