package order

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/tiffin-platform/tiffin/pkg/errs"
)

// maxLine bounds text fields that have no bound of their own, in characters.
const maxLine = 200

// problems collects what is wrong with a request, so that a client learns all
// of it at once.
type problems []errs.Field

func (p *problems) add(pointer, format string, args ...any) {
	*p = append(*p, errs.Field{Pointer: pointer, Detail: fmt.Sprintf(format, args...)})
}

func (p problems) err() error {
	if len(p) == 0 {
		return nil
	}
	return errs.BadFields(errs.Invalid, p...)
}

// line checks text of one line, from least to most characters long.
func (p *problems) line(pointer, v string, least, most int) {
	switch n := utf8.RuneCountInString(v); {
	case n > most && least == 0:
		p.add(pointer, "must be at most %d characters long", most)
	case n < least || n > most:
		p.add(pointer, "must be %d to %d characters long", least, most)
	case least > 0 && strings.TrimSpace(v) == "":
		p.add(pointer, "must not be blank")
	case strings.ContainsFunc(v, unicode.IsControl):
		p.add(pointer, "must not hold control characters")
	}
}

// text checks text of any number of lines. Control characters other than line
// breaks and tabs are refused: Postgres cannot store NUL, and nobody means them.
func (p *problems) text(pointer, v string, most int) {
	switch n := utf8.RuneCountInString(v); {
	case n > most:
		p.add(pointer, "must be at most %d characters long", most)
	case strings.ContainsFunc(v, func(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\r' && r != '\t' }):
		p.add(pointer, "must not hold control characters other than line breaks and tabs")
	}
}

func pointer(list string, i int, field string) string {
	return "/" + list + "/" + strconv.Itoa(i) + "/" + field
}

func isCountry(s string) bool  { return isCode(countries, s, 2) }
func isCurrency(s string) bool { return isCode(currencies, s, 3) }

// isCode looks s up in a list of codes of n letters, separated by spaces.
func isCode(list, s string, n int) bool {
	return len(s) == n && !strings.Contains(s, " ") && strings.Contains(" "+list+" ", " "+s+" ")
}

// countries are the officially assigned codes of ISO 3166-1 alpha-2.
const countries = "AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ " +
	"BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW BY BZ " +
	"CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ " +
	"EC EE EG EH ER ES ET FI FJ FK FM FO FR GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY " +
	"HK HM HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE JM JO JP KE KG KH KI KM KN KP KR KW KY KZ " +
	"LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ " +
	"NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS RU RW " +
	"SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO TR TT TV TW TZ " +
	"UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS YE YT ZA ZM ZW"

// currencies are the codes of ISO 4217 that people pay with: no funds, metals
// or test codes.
const currencies = "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD " +
	"CAD CDF CHF CLP CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD " +
	"HKD HNL HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD " +
	"MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG " +
	"QAR RON RSD RUB RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS " +
	"UAH UGX USD UYU UZS VED VES VND VUV WST XAF XCD XCG XOF XPF YER ZAR ZMW ZWG"
